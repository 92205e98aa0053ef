"""Prints the figures of ``make photos``: Caltech-101 by CoOp's protocol, tuned on half of the classes.

``python benchmarks/photos.py [--ckpt RUN] [--name NAME]`` reads the evaluations of a run of
``recipe=ranker_lora_caltech``: ``all`` (or that of the name), over all classes, and ``base_to_new``, of base and new
classes apart, which ``make photos`` makes.

Prints Markdown: for each number of shots the rows of ``eval.run`` with 95 % intervals over classes and seeds, the top-1
on images of base and of new classes in the same evaluation, and the paper's figures for CLIP+KNN and RAR, whose models
are others; the gains; the harmonic means; and which classes are taken for which. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

from data_prep.core.results_file import RESULTS, read_results
from data_prep.datasets import read_dataset
from data_prep.reading.class_halves import half_labels
from data_prep.settings.loading import load_saved_recipe
from eval.metrics.published import FEW_SHOT
from eval.report.predictions import read_predictions

CONFUSIONS = 12


def percent(fraction: float) -> str:
    """Formats a fraction in per cent."""
    return f"{100 * fraction:.1f}"


def format_row(*cells: str) -> str:
    """Formats a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def format_gain(gain: dict | None) -> str:
    """Formats a gain in points with its interval; empty for None."""
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * gain[key] for key in ("mean", "low", "high"))) if gain else ""


def tally(folder: Path, new_names: set[str]) -> tuple[dict, dict]:
    """Counts an evaluation's right predictions and its mistakes.

    Args:
        folder: Folder of the evaluation.
        new_names: Names of the new classes.

    Returns:
        tuple: ``[right, all]`` by shots, method and half; and counts of true and predicted names by shots and method.
    """
    hits: dict = defaultdict(lambda: [0, 0])
    mistakes: dict = defaultdict(Counter)
    for record in read_predictions(folder):
        if record["task"] not in ("zero_shot", "few_shot") or not record["ranking"]:
            continue
        key, truth, first = (record["shots"], record["method"]), record["truth"], record["ranking"][0]
        counts = hits[*key, "new" if truth in new_names else "base"]
        counts[0] += first == truth
        counts[1] += 1
        if first != truth:
            mistakes[key][truth, first] += 1
    return hits, mistakes


def format_table(results: dict, hits: dict) -> str:
    """Formats the rows over all classes."""
    heads = ("shots", "row", "top-1 %", "95 % interval", "base images", "new images", "over best retriever row")
    lines = [format_row(*heads, "over untuned", "paper"), format_row(*["---"] * 9)]
    for part in results["summary"]:
        if part["task"] not in ("zero_shot", "few_shot"):
            continue
        shots = part["shots"]
        for method, accuracy in part["methods"].items():
            interval = f"{percent(accuracy['low'])} to {percent(accuracy['high'])}"
            halves = []
            for half in ("base", "new"):
                right, count = hits.get((shots, method, half), (0, 0))
                halves.append(percent(right / count) if count else "")
            published = FEW_SHOT.get((shots, method), {}).get("caltech101")
            gains = [format_gain(part.get(f"{method}_minus_{other}")) for other in ("retriever", "untuned")]
            cells = (str(shots), f"`{method}`", percent(accuracy["mean"]), interval, *halves, *gains)
            lines.append(format_row(*cells, f"{published}" if published else ""))
    return "\n".join(lines)


def format_halves(summary: list[dict]) -> str:
    """Formats the rows of base and new classes, each half among its own classes, and their harmonic mean H.

    Args:
        summary: ``base_to_new`` of the combined results, of one data set.
    """
    heads = ("shots", "row", "base", "new", "H", "95 % interval of H", "H over best retriever row", "H over untuned")
    lines = [format_row(*heads), format_row(*["---"] * len(heads))]
    for part in summary:
        for method, halves in part["halves"].items():
            interval = f"{percent(halves['H']['low'])} to {percent(halves['H']['high'])}"
            gains = [format_gain(part.get(f"{method}_minus_{other}")) for other in ("retriever", "untuned")]
            means = [percent(halves[half]["mean"]) for half in ("base", "new", "H")]
            lines.append(format_row(str(part["shots"]), f"`{method}`", *means, interval, *gains))
    return "\n".join(lines)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ckpt", type=Path, default=Path("runs/ranker_lora_caltech"))
    parser.add_argument("--name", default="all")
    args = parser.parse_args()
    folder = args.ckpt / "eval" / args.name
    if not (folder / RESULTS).exists():
        print(json.dumps({"skipped": f"no evaluation at {folder}; make photos DATA=FOLDER makes it"}))
        return
    recipe = load_saved_recipe(args.ckpt / "recipe.yaml", [])
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test",))
    new_names = {dataset.names[label] for label in half_labels(len(dataset.names), "new")}
    results = read_results(folder)
    hits, mistakes = tally(folder, new_names)
    print(f"### {dataset.name}: {len(dataset.parts['test'])} images of {len(dataset.names)} classes\n")
    print(format_table(results, hits))
    several = args.ckpt / "eval" / "base_to_new"
    combined = read_results(several) if (several / RESULTS).exists() else {}
    if combined:
        halves = [part for part in combined["base_to_new"] if part["dataset"] == dataset.name]
        print(f"\n### {dataset.name}, base and new classes apart\n\n{format_halves(halves)}")
    shown = max((key for key in mistakes if key[1] == "rar_fused"), key=lambda key: (key[0] == 4, key[0]), default=None)
    if shown:
        print(f"\nMost frequent mistakes of `rar_fused` at {shown[0]} shots, over the seeds:\n")
        lines = [
            f"{truth} taken for {first} ({count})" for (truth, first), count in mistakes[shown].most_common(CONFUSIONS)
        ]
        print("; ".join(lines) + ".")
    metrics = {"rows": results["rows"], "summary": results["summary"], "base_to_new": combined}
    metrics["halves"] = {f"{shots}-{method}-{half}": counts for (shots, method, half), counts in hits.items()}
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
