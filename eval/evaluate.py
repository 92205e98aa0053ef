"""The evaluation of one data set: retrieve, ask, fit on development, score; and its files."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_prep.datasets import Dataset, read_dataset
from data_prep.encoder import Encoder, load_encoder
from data_prep.files import fingerprint, read_json, write_json, write_text
from data_prep.settings import Recipe
from eval.evaluated import Evaluated, cases_of
from eval.evaluation import Evaluation
from eval.figures import Figures
from eval.fits import fits_path, save_fits
from eval.fusion import Fusion
from eval.leak_check import leaks_of, refuse_copies
from eval.page import write_page
from eval.tasks import settings_of, spread
from eval.tracking import track_evaluation
from eval.unknown import Refusal

log = logging.getLogger(__name__)

# Settings that change what becomes of answers, or how many there are, but not an answer.
_AFTER = (
    "aggregate", "fusion", "fit_images", "gate", "gate_loss", "bootstrap", "alone_images", "alone_classes", "leaks",
    "copies_above",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What is evaluated.

    Attributes:
        folder: The run's.
        adapter: The tuned model's.
    """

    folder: Path
    adapter: Path

    def depends(self, recipe: Recipe, encoder: str) -> list:
        """What answers depend on, whichever settings of ``eval`` there are."""
        manifest = read_json(self.adapter / "manifest.json")
        models = [manifest["adapter"], manifest["base_model"], recipe.ranker.model, recipe.ranker.dtype, encoder]
        return [*models, asdict(recipe.data), asdict(recipe.retriever)]


def out_of(recipe: Recipe, run: Path) -> Path:
    """The folder of an evaluation's results."""
    return run / "eval" / f"{recipe.eval.split}-{recipe.ranker.mode}"


def read_checked(recipe: Recipe, run: Path) -> Dataset:
    """Reads what a recipe's split needs.

    Raises:
        UserError: It is missing or wrong, or its images are not what may be evaluated.
    """
    split = recipe.eval.split
    dataset = read_dataset(recipe.data, Path(recipe.cache), (f"{split}_memory", split))
    refuse_copies(recipe, dataset, run)
    return dataset


def encoder_of(recipe: Recipe) -> Encoder:
    """The recipe's encoder, on this machine's processes."""
    return load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))


def prepared(recipe: Recipe, run: Run, dataset: Dataset, encoder: Encoder, out: Path) -> Evaluation:
    """Retrieves the candidates of a recipe's split; answers go to a folder in ``out``."""
    settings = settings_of(recipe, encoder, dataset)
    asked = {key: value for key, value in asdict(recipe.eval).items() if key not in _AFTER}
    folder = out / f"answers-{fingerprint([*run.depends(recipe, encoder.id), asked])}"
    return Evaluation(recipe, dataset, settings, folder)


def fitted(
    recipe: Recipe, run: Run, evaluation: Evaluation, encoder: Encoder, out: Path
) -> tuple[dict[str, Fusion], Refusal | None]:
    """Fits fusion and refusal on the development split, whatever split is evaluated; and notes them in the run.

    Args:
        recipe: Of the evaluation.
        run: The run.
        evaluation: Answered; it is the one to fit on where it is of the development split.
        encoder: The retriever's.
        out: The evaluation's folder. Fits on another data set than the run's stay in it.
    """
    args, own = recipe.eval, out == out_of(recipe, run.folder)
    if not args.fusion and not args.unknown:
        return {}, None
    if args.split != "development":
        log.info("fusion, gate and threshold: fitting on the development split")
        recipe = replace(recipe, eval=replace(args, split="development", alone_images=0))
        place = out_of(recipe, run.folder) if own else out / "development"
        dataset = read_checked(recipe, run.folder)
        if args.fit_images:
            own = dataset.parts["development"]
            dataset.parts["development"] = [own[number] for number in spread(len(own), args.fit_images)]
        evaluation = prepared(recipe, run, dataset, encoder, place)
        evaluation.ask(run.adapter, untuned=False)
    fusions = evaluation.fit_fusions() if args.fusion else {}
    refusal = evaluation.fit_refusal() if args.unknown else None
    path = fits_path(run.folder, recipe.ranker.mode) if own else out / "fits.json"
    save_fits(path, read_json(run.adapter / "manifest.json")["adapter"], fusions, refusal)
    return fusions, refusal


def evaluate(recipe: Recipe, run: Run, dataset: Dataset, encoder: Encoder, out: Path) -> dict:
    """Runs the whole evaluation and writes its files.

    Args:
        recipe: All settings.
        run: The run.
        dataset: From ``read_checked``.
        encoder: From ``encoder_of``.
        out: Where to.

    Returns:
        dict: What ``results.json`` holds.
    """
    evaluation = prepared(recipe, run, dataset, encoder, out)
    evaluation.ask(run.adapter)
    fusions, refusal = fitted(recipe, run, evaluation, encoder, out)
    if fusions:
        evaluation.fuse(fusions)
    args = recipe.eval
    facts = {"dataset": dataset.name, "split": args.split, "mode": recipe.ranker.mode, "k": args.k}
    facts |= {"bootstrap": args.bootstrap, "skipped": dict(dataset.skipped)}
    facts |= {"adapter": read_json(run.adapter / "manifest.json")["adapter"], "encoder": encoder.id}
    facts |= {"settings": stamp(recipe, run, dataset), "leaks": leaks_of(recipe, encoder, dataset, run.folder)}
    facts |= {"fusion": {kind: asdict(fusion) for kind, fusion in fusions.items()}} if fusions else {}
    facts |= {"refusal": asdict(refusal)} if refusal else {}
    figures = Figures(facts)
    write_text(out / "predictions.jsonl", (figures.line(record) for record in evaluation.predictions()))
    results = figures.results()
    pictures = evaluation.pictures()
    write_json(out / "pictures.json", pictures)
    write_json(out / "results.json", results)
    log.info("wrote %s, predictions.jsonl and %s", out / "results.json", write_page(out).name)
    if recipe.tracking.wandb != "disabled":
        with open(out / "predictions.jsonl", encoding="utf-8") as lines:
            evaluated = Evaluated(out.name, results, cases_of(lines), pictures)
        track_evaluation(recipe, run.folder, evaluated)
    return results


def stamp(recipe: Recipe, run: Run, dataset: Dataset) -> str:
    """Identifies an evaluation by its models, settings and images, before a model is loaded."""
    images = [[part, [[s.key, s.digest, s.label] for s in own]] for part, own in sorted(dataset.parts.items())]
    trained = [recipe.ranker.mode, asdict(recipe.eval), dataset.names, fingerprint(images)]
    return fingerprint([*run.depends(recipe, ""), *trained])
