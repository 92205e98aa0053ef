"""``python -m eval.run --ckpt RUN [--split development] [--mode letters] [key.sub=value …]``

Evaluates a tuned ranker, the untuned one and the retriever alone. RUN is a run's folder or one of
its checkpoints. Settings come from the recipe saved beside the adapter; key=value changes them,
such as eval.shots=[1,2,4], or trainer.devices=2 to rank on two processes. Killed and called again,
it goes on from the answers that are there. Writes results.json, predictions.jsonl and report.html into
RUN/eval/SPLIT-MODE. Of a run that tuned the retriever it compares recall@k before and after.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path

from data_prep.command import run_command
from data_prep.datasets import read_dataset
from data_prep.encoder import load_encoder
from data_prep.files import fingerprint, read_json, write_json, write_text
from data_prep.held_out import check_not_mined
from data_prep.recipe import load_saved_recipe
from data_prep.settings import MODES, Recipe
from eval.evaluated import Evaluated, cases_of
from eval.evaluation import Evaluation
from eval.fits import fits_path, save_fits
from eval.fusion import Fusion
from eval.page import write_page
from eval.retriever import evaluate_retriever, print_retriever
from eval.summary import print_table
from eval.tasks import settings_of
from eval.tracking import track_evaluation
from eval.unknown import Refusal
from rar_train.adapter import find_adapter

log = logging.getLogger(__name__)


# Settings that change what becomes of answers, or how many there are, but not an answer.
_AFTER = ("aggregate", "fusion", "gate", "gate_loss", "bootstrap", "alone_images", "alone_classes")


def prepared(recipe: Recipe, adapter: Path, run: Path) -> tuple[Evaluation, str]:
    """Retrieves the candidates of a recipe's split.

    Returns:
        tuple[Evaluation, str]: The evaluation, and the encoder's id.
    """
    split = recipe.eval.split
    dataset = read_dataset(recipe.data, Path(recipe.cache), (f"{split}_memory", split))
    check_not_mined(run, dataset.parts[split], split)
    encoder = load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))
    settings = settings_of(recipe, encoder, dataset)
    manifest = read_json(adapter / "manifest.json")
    models = [manifest["adapter"], manifest["base_model"], recipe.ranker.model, recipe.ranker.dtype, encoder.id]
    asked = {key: value for key, value in asdict(recipe.eval).items() if key not in _AFTER}
    depends = [*models, asdict(recipe.data), asdict(recipe.retriever), asked]
    folder = out_of(recipe, run) / f"answers-{fingerprint(depends)}"
    return Evaluation(recipe, dataset, settings, folder), encoder.id


def out_of(recipe: Recipe, run: Path) -> Path:
    """The folder of an evaluation's results."""
    return run / "eval" / f"{recipe.eval.split}-{recipe.ranker.mode}"


def fitted(
    recipe: Recipe, adapter: Path, run: Path, evaluation: Evaluation
) -> tuple[dict[str, Fusion], Refusal | None]:
    """Fits fusion and refusal on the development split, whatever split is evaluated; and notes them in the run.

    Args:
        recipe: Of the evaluation.
        adapter: The tuned model's.
        run: The run's folder.
        evaluation: Answered; it is the one to fit on where it is of the development split.
    """
    args = recipe.eval
    if not args.fusion and not args.unknown:
        return {}, None
    if args.split != "development":
        log.info("fusion, gate and threshold: fitting on the development split")
        recipe = replace(recipe, eval=replace(args, split="development", alone_images=0))
        evaluation, _ = prepared(recipe, adapter, run)
        evaluation.ask(adapter)
    fusions = evaluation.fit_fusions() if args.fusion else {}
    refusal = evaluation.fit_refusal() if args.unknown else None
    save_fits(fits_path(run, recipe.ranker.mode), read_json(adapter / "manifest.json")["adapter"], fusions, refusal)
    return fusions, refusal


def evaluate(recipe: Recipe, adapter: Path, run: Path) -> dict:
    """Runs the whole evaluation and writes its files.

    Returns:
        dict: What ``results.json`` holds.
    """
    evaluation, encoder = prepared(recipe, adapter, run)
    evaluation.ask(adapter)
    fusions, refusal = fitted(recipe, adapter, run, evaluation)
    more = {}
    if fusions:
        more["gate"] = evaluation.fuse(fusions)
        more["fusion"] = {kind: asdict(fusion) for kind, fusion in fusions.items()}
    if refusal:
        more["unknown"] = evaluation.refusal_figures(refusal)
    manifest = read_json(adapter / "manifest.json")
    results = evaluation.results() | more | {"adapter": manifest["adapter"], "encoder": encoder}
    out = out_of(recipe, run)
    predictions, pictures = evaluation.predictions(), evaluation.pictures()
    write_text(out / "predictions.jsonl", predictions)
    write_json(out / "results.json", results)
    write_json(out / "pictures.json", pictures)
    log.info("wrote %s, predictions.jsonl and %s", out / "results.json", write_page(out).name)
    if recipe.tracking.wandb != "disabled":
        track_evaluation(recipe, run, Evaluated(out.name, results, cases_of(predictions.splitlines()), pictures))
    return results


def main(arguments: list[str]) -> None:
    """Reads the command line, evaluates and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.run")
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--split", choices=("test", "development"))
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args(arguments)
    settings = list(args.settings)
    settings += [f"eval.split={args.split}"] if args.split else []
    settings += [f"ranker.mode={args.mode}"] if args.mode else []
    if (Path(args.ckpt) / "recipe.yaml").is_file():
        recipe = load_saved_recipe(Path(args.ckpt) / "recipe.yaml", settings)
        if recipe.task == "retriever":
            print_retriever(evaluate_retriever(recipe, Path(args.ckpt)))
            return
    adapter, run = find_adapter(Path(args.ckpt))
    recipe = load_saved_recipe(run / "recipe.yaml", settings)
    print_table(evaluate(recipe, adapter, run))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
