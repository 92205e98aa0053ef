"""The summary over seeds, and the table on the console."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.metrics import bootstrap_interval, percent

RETRIEVERS = ("clip_zero_shot", "clip_knn", "clip_fused")


def summarise(rows: list[dict], hits: dict[tuple, np.ndarray], classes: np.ndarray, resamples: int) -> list[dict]:
    """Mean and standard deviation over seeds, and what the ranker gains.

    Args:
        rows: All rows.
        hits: Top-1 hits per image by (task, shots, seed, method), shape ``[n]`` each.
        classes: True class of each image.
        resamples: Of the bootstrap.

    Returns:
        list[dict]: Per task, shots and mode: ``methods`` with mean and sd of top-1, and the gains
        ``rar_minus_retriever`` (over the best retriever row by mean) and ``rar_minus_untuned``,
        each with mean and 95 % interval over classes, seeds averaged first.
    """
    groups: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["method"] != "ranker_alone":
            groups[row["task"], row["shots"]][row["method"]].append(row["top1"])
    summary = []
    for (task, shots), methods in groups.items():
        seeds = sorted({key[2] for key in hits if key[:2] == (task, shots)})

        def mean_hits(method: str, task=task, shots=shots, seeds=seeds) -> np.ndarray:
            return np.mean([hits[task, shots, seed, method] for seed in seeds], axis=0)

        best = max((m for m in RETRIEVERS if m in methods), key=lambda m: np.mean(methods[m]))
        gains = {}
        for name, reference in (("rar_minus_retriever", best), ("rar_minus_untuned", "rar_untuned")):
            difference = mean_hits("rar") - mean_hits(reference)
            mean, low, high = bootstrap_interval(difference, classes, resamples)
            gains[name] = {"reference": reference, "mean": mean, "low": low, "high": high}
        figures = {
            method: {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
            for method, values in methods.items()
        }
        summary.append({"task": task, "shots": shots, "seeds": len(seeds), "methods": figures, **gains})
    return summary


def _given_hit(own: list[dict]) -> str:
    values = [row["top1_given_hit"] for row in own if row.get("top1_given_hit") is not None]
    return percent(values) if values else ""


def _moved(own: list[dict]) -> str:
    """Images that the ranker corrected and broke, the mean over seeds."""
    if "corrected" not in own[0]:
        return ""
    return " / ".join(f"{np.mean([row[key] for row in own]):.0f}" for key in ("corrected", "broken"))


def print_table(results: dict) -> None:
    """Prints one line per task, shots and method, and below it the gains and what else was measured."""
    rows = results["rows"]
    table = Table(title=f"{results['dataset']}, {results['split']}, ranking by {results['mode']}, k = {results['k']}")
    columns = ("task", "shots", "method", "top-1 %", "top-5 %", "recall@k %", "given hit %", "+ / -", "images", "seeds")
    for column in columns:
        table.add_column(column, justify="left" if column in ("task", "method") else "right")
    lines: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        lines[row["task"], row["shots"], row["method"]].append(row)
    last = None
    for (task, shots, method), own in lines.items():
        if last not in (None, (task, shots)):
            table.add_section()
        last = (task, shots)
        figures = [percent([row[key] for row in own]) for key in ("top1", "top5", "recall_at_k")]
        counts = (str(own[0]["n"]), str(len(own)))
        table.add_row(task, str(shots), method, *figures, _given_hit(own), _moved(own), *counts)
    console = Console(width=120)
    console.print(table)
    for line in [*gain_lines(results), *_outcomes(rows), *_places(results), *_gates(results), *_unknown(results)]:
        console.print(line)


def gain_lines(results: dict) -> list[str]:
    """What the tuned ranker gains, in words and per cent."""
    lines = []
    for part in results["summary"]:
        for name in ("rar_minus_retriever", "rar_minus_untuned"):
            gain = part[name]
            lines.append(
                f"{part['task']} {part['shots']}: rar - {gain['reference']} = {100 * gain['mean']:+.1f} points "
                f"(95 % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
            )
    return lines


def _outcomes(rows: list[dict]) -> list[str]:
    """How replies were read, where any needed more than reading."""
    totals: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        totals[row["method"]].update(row.get("outcomes", {}))
    return [
        f"{method}: replies {', '.join(f'{name} {count}' for name, count in sorted(total.items()))}"
        for method, total in totals.items()
        if set(total) - {"ok"}
    ]


def _places(results: dict) -> list[str]:
    """Accuracy by the truth's place in the order shown, where there is one."""
    lines = []
    for method, places in results.get("by_place", {}).items():
        shares = [row["top1"] for row in places.get("shown", [])]
        if shares:
            figures = ", ".join("-" if share is None else f"{100 * share:.1f}" for share in shares)
            lines.append(f"{method}: top-1 % by the place at which the truth is shown: {figures}")
    return lines


def _gates(results: dict) -> list[str]:
    return [
        f"{kind}: the gate asks about {100 * gate['share_asked']:.0f} % of the images; "
        "top-1 % with 0, 10, … 100 % ranked: " + ", ".join(f"{100 * point['top1']:.1f}" for point in gate["curve"])
        for kind, gate in results.get("gate", {}).items()
    ]


def _unknown(results: dict) -> list[str]:
    found = results.get("unknown")
    if not found:
        return []
    by_signal = ", ".join(f"{name} {value:.3f}" for name, value in found["auroc"].items())
    return [
        f"unknown classes: AUROC {by_signal}; by {found['signal']}, {100 * found['known_accepted']:.1f} % of "
        f"known images are accepted and {100 * found['unknown_refused']:.1f} % of unknown ones refused"
    ]
