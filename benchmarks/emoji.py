"""Evaluates the lite models on emoji of a design family that neither was tuned on.

``python benchmarks/emoji.py [--ckpt RUN] [--transfer RUN] [--only NAME …] [--small]`` evaluates a run of
``recipe=ranker_lora_lite`` on the test family, for each sub-vocabulary alone and for all classes; with names alone in
the memory, with 1 and 4 drawings per class (CoOp's sampling, seeds 1, 2, 3) and with all other families' drawings.
The rows are ``eval.run``'s: zero-shot CLIP, CLIP+KNN, fused, the ranker alone where the vocabulary fits, RAR untuned,
tuned and fused, with recall@k and the 95 % intervals of the gains. Below each table are the accuracy of the projector's
readers without the language model, among all names and among the ranker's candidates with the last memory; and that of
nearest neighbours in the image tower's features.
With ``--transfer``, a run tuned without animals is evaluated on animals. Each evaluation is in
``RUN/eval/emoji-VOCABULARY``, and complete ones are reused. ``--small`` evaluates animals with names and one drawing.

``python benchmarks/emoji.py --projector runs/mllm_lite [--only NAME …]`` only gives the accuracy of the projector of a
run of ``recipe=mllm_lite``: on the validation family, for model selection, and on the training images as the ranker's
tuning sees them.

Prints Markdown tables, which are in ``benchmarks/emoji.md``, and as its last line one JSON object: ``hardware``, and
under ``vocabularies`` and ``transfer`` each evaluation's ``rows`` and ``summary``.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from data_prep.core.command import quiet_libraries
from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.memory_budget import keep_freed_memory
from data_prep.core.records import Sample
from data_prep.core.results_file import RESULTS, read_results
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import embed_images
from data_prep.memory.memories import Memories, image_memory
from data_prep.settings import Recipe
from data_prep.settings.data import EMOJI_VOCABULARIES, EmojiArgs
from data_prep.settings.loading import load_saved_recipe
from eval.metrics.accuracy import hits_at
from eval.recognition.evaluate import evaluate, evaluation_fingerprint, load_recipe_encoder, read_checked
from eval.recognition.run import Run
from eval.report.predictions import read_predictions
from eval.report.reading import FILES
from rar_train.engine.run_folder import find_adapter
from rar_train.models.feature_cache import cache_features
from rar_train.models.loading import load_mllm
from rar_train.projector.datamodule import projector_inputs
from rar_train.retriever.views import without_projections

ALL = "all"
MIN_FIT_IMAGES = 50
"""Validation images below which no fusion is fitted: the validation family has few flags."""
VOCABULARIES = (*(name for name in EMOJI_VOCABULARIES if name != "others"), ALL)


def evaluate_vocabulary(ckpt: Path, vocabulary: str, settings: list[str]) -> dict:
    """Evaluates one sub-vocabulary, or reads its complete evaluation."""
    adapter, folder = find_adapter(ckpt)
    names = [] if vocabulary == ALL else [vocabulary]
    recipe = load_saved_recipe(folder / "recipe.yaml", [f"data.emoji.vocabulary=[{','.join(names)}]", *settings])
    fit_samples = read_dataset(recipe.data, Path(recipe.cache), ("val",)).parts["val"]
    if len(fit_samples) < MIN_FIT_IMAGES:
        recipe = replace(recipe, eval=replace(recipe.eval, fusion=False))
    run, out = Run(folder, adapter), folder / "eval" / f"emoji-{vocabulary}"
    dataset = read_checked(recipe, folder)
    encoder = load_recipe_encoder(recipe)
    stamp = evaluation_fingerprint(recipe, run, dataset, encoder)
    if (out / RESULTS).exists() and read_results(out, FILES)["settings"] == stamp:
        return read_results(out)
    return evaluate(recipe, run, dataset, encoder, out)


class Projector:
    """Accuracy of the projector of a run's base model by itself.

    The ranker's accuracy beyond it is due to the language model and the retriever. A class that is missing in the
    projector's dictionary is a miss.

    Args:
        recipe: The run's recipe.
    """

    def __init__(self, recipe: Recipe):
        self.recipe, self.mllm = recipe, load_mllm(recipe.ranker)
        names = read_json(Path(recipe.ranker.model) / "manifest.json")["names"]
        self.rows = {name: row for row, name in enumerate(names)}
        cache_features(self.mllm, Path(recipe.cache), recipe.ranker.lora)
        self.projector = self.mllm.base.get_submodule(self.mllm.family.connector)

    def dataset(self, vocabulary: str, *parts: str) -> Dataset:
        """Reads parts of a vocabulary's data."""
        data = replace(self.recipe.data, emoji=_only(self.recipe, vocabulary))
        return read_dataset(data, Path(self.recipe.cache), parts)

    @torch.no_grad()
    def accuracy(self, dataset: Dataset, part: str, choices: Callable[[Sample], Sequence[str]]) -> float:
        """Computes the top-1 accuracy on a part's images among each image's choices, 0 to 1."""
        samples, hits = dataset.parts[part], 0
        for start in range(0, len(samples), 64):
            batch = samples[start : start + 64]
            log_shares = self.projector.log_shares(projector_inputs(self.mllm, batch))
            for sample, scores in zip(batch, log_shares, strict=True):
                known = [name for name in choices(sample) if name in self.rows]
                best = scores[[self.rows[name] for name in known]].argmax() if known else None
                hits += best is not None and known[best] == dataset.names[sample.label]
        return hits / len(samples)

    def alone(self, split: str, vocabulary: str) -> float:
        """Computes the top-1 accuracy on a split's images among all names of a vocabulary, 0 to 1."""
        dataset = self.dataset(vocabulary, f"{split}_memory", split)
        names = [dataset.names[label] for label in dataset.labels(f"{split}_memory")]
        return self.accuracy(dataset, split, lambda _: names)

    def in_tuning(self) -> float:
        """Computes the top-1 accuracy on the training images with the tokens that the ranker's tuning sees, 0 to 1."""
        self.projector.training = True  # its own flag alone: its readers' dropout stays off
        accuracy = self.accuracy(self.dataset(ALL, "train"), "train", lambda _: list(self.rows))
        self.projector.training = False
        return accuracy

    def among(self, folder: Path, vocabulary: str, task: str) -> float:
        """Computes the top-1 accuracy on the test images among the candidates of an evaluation's ranker, 0 to 1."""
        candidates = {}
        for record in read_predictions(folder):
            if record["method"] == "rar" and record["task"] == task and record["key"] not in candidates:
                candidates[record["key"]] = [candidate["name"] for candidate in record["candidates"]]
        return self.accuracy(self.dataset(vocabulary, "test"), "test", lambda sample: candidates[sample.key])


def frozen_tower(recipe: Recipe, vocabulary: str) -> dict:
    """Evaluates nearest neighbours in the image tower's features, before CLIP's projection.

    Returns:
        dict: ``top1`` and ``top5`` as fractions, with all other families' drawings in the memory; empty for an encoder
        whose tower and projection cannot be separated.
    """
    try:
        towers = without_projections(load_recipe_encoder(recipe))
    except UserError:
        return {}
    recipe = replace(recipe, data=replace(recipe.data, emoji=_only(recipe, vocabulary)))
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
    samples = dataset.parts["test"]
    memory = image_memory(towers, dataset.parts["test_memory"], recipe.retriever, Path(recipe.cache))
    xq = embed_images(towers, samples, recipe.retriever, Path(recipe.cache))
    candidates = Memories(memory, None).candidates("image", xq, 5, recipe.retriever, dataset.names)
    ranked = [[candidate.label for candidate in row] for row in candidates]
    truths = [sample.label for sample in samples]
    return {f"top{k}": round(float(hits_at(ranked, truths, k).mean()), 4) for k in (1, 5)}


def _only(recipe: Recipe, vocabulary: str) -> EmojiArgs:
    return replace(recipe.data.emoji, vocabulary=[] if vocabulary == ALL else [vocabulary])


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _format_gain(gain: dict | None) -> str:
    """Formats a gain in points with its interval; empty for None."""
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * gain[key] for key in ("mean", "low", "high"))) if gain else ""


def _format_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def format_table(vocabulary: str, results: dict) -> str:
    """Formats one sub-vocabulary's results as a Markdown table: a line per memory and method, seeds averaged."""
    k = results["k"]
    lines = [f"### {vocabulary}: {max(row['n'] for row in results['rows'])} images\n"]
    heads = ("memory", "method", "top-1 %, ± over seeds", "95 % interval", "top-5 %", f"recall@{k} %")
    lines.append(_format_row(*heads, "over best retriever row", "over untuned"))
    lines.append(_format_row(*["---"] * 8))
    for part in results["summary"]:
        images = f"{part['shots']} per class" if part["shots"] else "all other families"
        memory = "names" if part["task"] == "zero_shot" else images
        for method, accuracy in part["methods"].items():
            key = (part["task"], part["shots"], method)
            rows = [row for row in results["rows"] if (row["task"], row["shots"], row["method"]) == key]
            top5, recall = (_percent(sum(row[key] for row in rows) / len(rows)) for key in ("top5", "recall_at_k"))
            top1 = f"{_percent(accuracy['mean'])} ± {_percent(accuracy['sd'])}"
            interval = f"{_percent(accuracy['low'])} to {_percent(accuracy['high'])}"
            gains = [_format_gain(part.get(f"{method}_minus_{other}")) for other in ("retriever", "untuned")]
            lines.append(_format_row(memory, f"`{method}`", top1, interval, top5, recall, *gains))
    for row in results["rows"]:
        if row["method"] == "ranker_alone":
            alone = (_percent(row["top1"]), "", _percent(row["top5"]), "", "", "")
            lines.append(_format_row("none", f"`ranker_alone`, {row['n']} images", *alone))
    return "\n".join(lines)


def main() -> None:
    """Evaluates and prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ckpt", type=Path, default=Path("runs/ranker_lora_lite"))
    parser.add_argument("--transfer", type=Path)
    parser.add_argument("--only", nargs="+", choices=VOCABULARIES, default=VOCABULARIES)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--projector", type=Path)
    args = parser.parse_args()
    quiet_libraries()
    keep_freed_memory()
    if args.projector:
        projector = Projector(
            load_saved_recipe(args.projector / "recipe.yaml", [f"ranker.model={args.projector / 'model'}"])
        )
        alone = {name: round(projector.alone("val", name), 4) for name in args.only}
        print(json.dumps({"projector_alone": alone, "in_tuning": round(projector.in_tuning(), 4)}))
        return
    if not args.ckpt.exists():
        print(json.dumps({"skipped": f"no run at {args.ckpt}; make lite makes it, or give --ckpt RUN"}))
        return
    names = ("animals",) if args.small else args.only
    settings = (
        ["eval.shots=[1]", "eval.seeds=[1]", "eval.full_train_memory=false", "eval.ranker_only_images=0"]
        if args.small
        else []
    )
    evaluations = {name: evaluate_vocabulary(args.ckpt, name, settings) for name in names}
    transfer = {"animals": evaluate_vocabulary(args.transfer, "animals", settings)} if args.transfer else {}
    folder = find_adapter(args.ckpt)[1]
    recipe = load_saved_recipe(folder / "recipe.yaml", [])
    projector = Projector(recipe)
    alone, among, frozen = {}, {}, {}
    for name, results in evaluations.items():
        task = results["summary"][-1]["task"]
        alone[name] = round(projector.alone("test", name), 4)
        among[name] = round(projector.among(folder / "eval" / f"emoji-{name}", name, task), 4)
        frozen[name] = frozen_tower(recipe, name)
        text = (
            f"Without the language model, the projector is right for {_percent(alone[name])} % among all names, and for"
        )
        print(f"{format_table(name, results)}\n\n{text} {_percent(among[name])} % among the last memory's candidates.")
        if frozen[name]:
            text = "Nearest neighbours in the frozen tower's features, all other families in memory, are right for"
            print(f"{text} {_percent(frozen[name]['top1'])} %, within five for {_percent(frozen[name]['top5'])} %.")
        print()
    for name, results in transfer.items():
        print(f"{format_table(f'{name}, tuned without them', results)}\n")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    metrics = {
        "hardware": f"{platform.machine()}, {device}",
        "frozen_tower": frozen,
        "projector_alone": alone,
        "projector_among_candidates": among,
        "vocabularies": {
            name: {key: results[key] for key in ("rows", "summary")} for name, results in evaluations.items()
        },
        "transfer": {name: {key: results[key] for key in ("rows", "summary")} for name, results in transfer.items()},
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
