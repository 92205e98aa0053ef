"""What the lite models reach on emoji of a family that neither was tuned on.

``python benchmarks/emoji.py [--ckpt RUN] [--transfer RUN] [--only NAME …] [--small]`` evaluates a run of
``recipe=ranker_lora_lite`` on the test family, for each sub-vocabulary alone and for all classes; with names alone in
the memory, with 1 and 4 drawings a class (CoOp's draw, seeds 1, 2, 3) and with all other
families' drawings. The rows are ``eval.run``'s: zero-shot CLIP, CLIP+KNN, fused, the
ranker alone where the vocabulary fits, RAR untuned, tuned and fused, with recall@k and the 95 % intervals of the gains.
Below each table stands what the projector's readers name right on their own, without the language model: among all
names, and among the candidates that the ranker had with the last memory; and what nearest neighbours reach by the
image tower's own features.
With ``--transfer``, a run tuned without animals is asked about animals. Each evaluation lies in
``RUN/eval/emoji-VOCABULARY``, and complete ones are reused. ``--small`` evaluates animals with names and one drawing.

``python benchmarks/emoji.py --projector runs/mllm_lite [--only NAME …]`` says what the projector of a run of
``recipe=mllm_lite`` alone names right of the development family, to choose by, and of the training pictures as the
ranker's tuning sees them, and nothing else.

Prints Markdown tables, as ``benchmarks/emoji.md`` has them, and as its last line one JSON object: ``hardware``, and
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
from data_prep.core.records import Sample
from data_prep.core.results_file import RESULTS, read_results
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import embed_images
from data_prep.memory.memories import Memories, image_memory
from data_prep.settings import Recipe
from data_prep.settings.data import EMOJI_VOCABULARIES, EmojiArgs
from data_prep.settings.loading import load_saved_recipe
from eval.metrics.accuracy import hits_at
from eval.recognition.evaluate import Run, evaluate, evaluation_stamp, load_recipe_encoder, read_checked
from eval.report.reading import FILES
from rar_train.engine.run_folder import find_adapter
from rar_train.models.feature_cache import cache_features
from rar_train.models.mllm import load_mllm
from rar_train.projector.datamodule import projector_inputs
from rar_train.retriever.views import without_projections

ALL = "all"
FEWEST_TO_FIT = 50
"""Development pictures below which no fusion is fitted: the development family draws few flags."""
VOCABULARIES = (*(name for name in EMOJI_VOCABULARIES if name != "others"), ALL)


def evaluated(ckpt: Path, vocabulary: str, settings: list[str]) -> dict:
    """The results of one sub-vocabulary, computed or found."""
    adapter, folder = find_adapter(ckpt)
    chosen = [] if vocabulary == ALL else [vocabulary]
    recipe = load_saved_recipe(folder / "recipe.yaml", [f"data.emoji.vocabulary=[{','.join(chosen)}]", *settings])
    fitted_on = read_dataset(recipe.data, Path(recipe.cache), ("val",)).parts["val"]
    if len(fitted_on) < FEWEST_TO_FIT:
        recipe = replace(recipe, eval=replace(recipe.eval, fusion=False))
    run, out = Run(folder, adapter), folder / "eval" / f"emoji-{vocabulary}"
    dataset = read_checked(recipe, folder)
    encoder = load_recipe_encoder(recipe)
    if (out / RESULTS).exists() and read_results(out, FILES)["settings"] == evaluation_stamp(
        recipe, run, dataset, encoder
    ):
        return read_results(out)
    return evaluate(recipe, run, dataset, encoder, out)


class Projector:
    """What the projector of a run's base model says of pictures on its own.

    What is ranked beyond it is the language model's and the retriever's part. A class that its dictionary lacks is a
    miss.

    Args:
        recipe: The run's.
    """

    def __init__(self, recipe: Recipe):
        self.recipe, self.mllm = recipe, load_mllm(recipe.ranker)
        names = read_json(Path(recipe.ranker.model) / "manifest.json")["names"]
        self.rows = {name: row for row, name in enumerate(names)}
        cache_features(self.mllm, Path(recipe.cache), recipe.ranker.lora)
        self.projector = self.mllm.base.get_submodule(self.mllm.family.connector)

    def dataset(self, vocabulary: str, *parts: str) -> Dataset:
        """Parts of a vocabulary's data."""
        data = replace(self.recipe.data, emoji=_only(self.recipe, vocabulary))
        return read_dataset(data, Path(self.recipe.cache), parts)

    @torch.no_grad()
    def right(self, dataset: Dataset, part: str, choices: Callable[[Sample], Sequence[str]]) -> float:
        """Share of a part's pictures whose name is the likeliest of those that it chooses among."""
        samples, hits = dataset.parts[part], 0
        for start in range(0, len(samples), 64):
            own = samples[start : start + 64]
            for sample, shares in zip(own, self.projector.log_shares(projector_inputs(self.mllm, own)), strict=True):
                known = [name for name in choices(sample) if name in self.rows]
                best = shares[[self.rows[name] for name in known]].argmax() if known else None
                hits += best is not None and known[best] == dataset.names[sample.label]
        return hits / len(samples)

    def alone(self, split: str, vocabulary: str) -> float:
        """Share of a split's pictures that it names right among all of a vocabulary's names, 0 to 1."""
        dataset = self.dataset(vocabulary, f"{split}_memory", split)
        names = [dataset.names[label] for label in dataset.labels(f"{split}_memory")]
        return self.right(dataset, split, lambda _: names)

    def in_tuning(self) -> float:
        """Share of the training pictures whose tokens, as the ranker's tuning sees them, say their name above all."""
        self.projector.training = True  # its own flag alone: its readers' dropout stays off
        found = self.right(self.dataset(ALL, "train"), "train", lambda _: list(self.rows))
        self.projector.training = False
        return found

    def among(self, folder: Path, vocabulary: str, task: str) -> float:
        """Share of the test pictures that it names right among the candidates that an evaluation's ranker was given."""
        given = {}
        with open(folder / "predictions.jsonl", encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                if line["method"] == "rar" and line["task"] == task and line["key"] not in given:
                    given[line["key"]] = [candidate["name"] for candidate in line["candidates"]]
        return self.right(self.dataset(vocabulary, "test"), "test", lambda sample: given[sample.key])


def frozen_tower(recipe: Recipe, vocabulary: str) -> dict:
    """What nearest neighbours reach by the image tower's own features, before any projection of CLIP's.

    Returns:
        dict: ``top1`` and ``top5`` as shares, all other families' drawings in memory; empty for an encoder whose
        tower and projection are one.
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
    found = Memories(memory, None).candidates("image", xq, 5, recipe.retriever, dataset.names)
    ranked = [[candidate.label for candidate in row] for row in found]
    truths = [sample.label for sample in samples]
    return {f"top{k}": round(float(hits_at(ranked, truths, k).mean()), 4) for k in (1, 5)}


def _only(recipe: Recipe, vocabulary: str) -> EmojiArgs:
    return replace(recipe.data.emoji, vocabulary=[] if vocabulary == ALL else [vocabulary])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(gain: dict | None) -> str:
    """A gain in points with its interval, or nothing."""
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * gain[key] for key in ("mean", "low", "high"))) if gain else ""


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(vocabulary: str, results: dict) -> str:
    """One sub-vocabulary as a Markdown table: a line per memory and method, seeds averaged."""
    k = results["k"]
    lines = [f"### {vocabulary}: {max(row['n'] for row in results['rows'])} pictures\n"]
    heads = ("memory", "method", "top-1 %, ± over seeds", "95 % interval", "top-5 %", f"recall@{k} %")
    lines.append(_line(*heads, "over best retriever row", "over untuned"))
    lines.append(_line(*["---"] * 8))
    for part in results["summary"]:
        drawn = f"{part['shots']} a class" if part["shots"] else "all other families"
        memory = "names" if part["task"] == "zero_shot" else drawn
        for method, own in part["methods"].items():
            key = (part["task"], part["shots"], method)
            rows = [row for row in results["rows"] if (row["task"], row["shots"], row["method"]) == key]
            top5, recall = (_percent(sum(row[key] for row in rows) / len(rows)) for key in ("top5", "recall_at_k"))
            top1 = f"{_percent(own['mean'])} ± {_percent(own['sd'])}"
            interval = f"{_percent(own['low'])} to {_percent(own['high'])}"
            gains = [_signed(part.get(f"{method}_minus_{other}")) for other in ("retriever", "untuned")]
            lines.append(_line(memory, f"`{method}`", top1, interval, top5, recall, *gains))
    for row in results["rows"]:
        if row["method"] == "ranker_alone":
            alone = (_percent(row["top1"]), "", _percent(row["top5"]), "", "", "")
            lines.append(_line("none", f"`ranker_alone`, {row['n']} pictures", *alone))
    return "\n".join(lines)


def main() -> None:
    """Evaluates and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ckpt", type=Path, default=Path("runs/ranker_lora_lite"))
    parser.add_argument("--transfer", type=Path)
    parser.add_argument("--only", nargs="+", choices=VOCABULARIES, default=VOCABULARIES)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--projector", type=Path)
    args = parser.parse_args()
    quiet_libraries()
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
    found = {name: evaluated(args.ckpt, name, settings) for name in names}
    transfer = {"animals": evaluated(args.transfer, "animals", settings)} if args.transfer else {}
    folder = find_adapter(args.ckpt)[1]
    recipe = load_saved_recipe(folder / "recipe.yaml", [])
    projector = Projector(recipe)
    alone, among, frozen = {}, {}, {}
    for name, results in found.items():
        task = results["summary"][-1]["task"]
        alone[name] = round(projector.alone("test", name), 4)
        among[name] = round(projector.among(folder / "eval" / f"emoji-{name}", name, task), 4)
        frozen[name] = frozen_tower(recipe, name)
        said = f"Without the language model, the projector names {_percent(alone[name])} % right of all names, and"
        print(f"{table(name, results)}\n\n{said} {_percent(among[name])} % of the last memory's candidates.")
        if frozen[name]:
            said = "Nearest neighbours by the frozen tower's own features, all other families in memory, are right for"
            print(f"{said} {_percent(frozen[name]['top1'])} %, within five for {_percent(frozen[name]['top5'])} %.")
        print()
    for name, results in transfer.items():
        print(f"{table(f'{name}, tuned without them', results)}\n")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    metrics = {
        "hardware": f"{platform.machine()}, {device}",
        "frozen_tower": frozen,
        "projector_alone": alone,
        "projector_among_candidates": among,
        "vocabularies": {name: {key: own[key] for key in ("rows", "summary")} for name, own in found.items()},
        "transfer": {name: {key: own[key] for key in ("rows", "summary")} for name, own in transfer.items()},
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
