"""The evaluation of one data set: retrieve, ask, fit on development, score; and its files."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_prep.core.files import file_lock, fingerprint, read_json, write_json, write_text
from data_prep.core.results_file import write_results
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.leakage.contamination import read_mined
from data_prep.settings import DataArgs, Recipe, RetrieverArgs
from data_prep.settings.loading import load_saved_recipe
from eval.calibration.fusion import Fusion
from eval.calibration.open_set import Refusal
from eval.calibration.store import fits_path, save_fits
from eval.ranking.answer_key import models_key
from eval.recognition.evaluation import Evaluation
from eval.recognition.leak_check import find_leaks, refuse_copies
from eval.recognition.tasks import make_tasks
from eval.recognition.tracking import track_evaluation
from eval.report.page import write_page
from eval.report.reading import FILES, Evaluated, group_cases
from eval.report.results import Metrics
from rar_train.engine.wandb_mode import wandb_mode

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What is evaluated.

    Attributes:
        folder: The run's.
        adapter: The tuned model's.
    """

    folder: Path
    adapter: Path

    @property
    def weights(self) -> str:
        """SHA-256 of the adapter."""
        return read_json(self.adapter / "manifest.json")["adapter"]

    def is_own(self, recipe: Recipe) -> bool:
        """Whether a recipe evaluates the data set that the run was made with, by the same retriever."""
        own = load_saved_recipe(self.folder / "recipe.yaml", [])
        return _source(recipe.data) == _source(own.data) and _bare(recipe.retriever) == _bare(own.retriever)


def _source(data: DataArgs) -> DataArgs:
    """Settings of a data set by which two are the same: its root as an absolute path, and not how it is read."""
    root = data.root and str(Path(data.root).resolve())
    return replace(data, root=root, on_error="skip")


def _bare(retriever: RetrieverArgs) -> RetrieverArgs:
    """Settings of a retriever without those that only say how fast it works."""
    return replace(retriever, batch_size=1, num_workers=0, mmap=False)


def results_folder(recipe: Recipe, run: Path) -> Path:
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


def load_recipe_encoder(recipe: Recipe) -> Encoder:
    """The recipe's encoder, on this machine's processes."""
    return load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))


def _to_fit_on(recipe: Recipe, run: Run) -> tuple[Recipe, Dataset]:
    """The recipe on the validation split, and the images on which fusion, gate and threshold are fitted."""
    recipe = replace(recipe, eval=replace(recipe.eval, split="val", ranker_only_images=0))
    dataset, most = read_checked(recipe, run.folder), recipe.eval.fit_images
    if most:
        images = dataset.parts["val"]
        dataset.parts["val"] = [images[number] for number in evenly_spaced(len(images), most)]
    return recipe, dataset


def _fits(recipe: Recipe) -> bool:
    """Whether an evaluation fits something on the validation split."""
    return recipe.eval.fusion or recipe.eval.open_set_fraction > 0


def fit_calibration(
    recipe: Recipe, run: Run, evaluation: Evaluation, encoder: Encoder, out: Path
) -> tuple[dict[str, Fusion], Refusal | None]:
    """Fits fusion and refusal on the validation split, whatever split is evaluated; and notes them.

    Args:
        recipe: Of the evaluation.
        run: The run. Fits on its own data set with its own retriever are kept there, for other evaluations and for
            inference.
        evaluation: Answered; it is the one to fit on where it is of the validation split.
        encoder: The retriever's.
        out: The evaluation's folder. Other fits stay in it.
    """
    if not _fits(recipe):
        return {}, None
    args, own = recipe.eval, run.is_own(recipe)
    if args.split != "val":
        log.info("fusion, gate and threshold: fitting on the validation split")
        recipe, dataset = _to_fit_on(recipe, run)
        place = results_folder(recipe, run.folder) if own else out / "val"
        evaluation = Evaluation(recipe, dataset, make_tasks(recipe, encoder, dataset), place)
        evaluation.ask(run.adapter, untuned=False)
    fusions = evaluation.fit_fusions() if args.fusion else {}
    refusal = evaluation.fit_refusal() if args.open_set_fraction else None
    path = fits_path(run.folder, recipe.ranker.mode, run.adapter) if own else out / "fits.json"
    save_fits(path, run.weights, encoder.id, fusions, refusal)
    log.info("fits: %s%s", path, "" if own else ", as data set or retriever are not the run's own")
    return fusions, refusal


def evaluate(recipe: Recipe, run: Run, dataset: Dataset, encoder: Encoder, out: Path) -> dict:
    """Runs the whole evaluation and writes its files.

    Args:
        recipe: All settings.
        run: The run.
        dataset: From ``read_checked``.
        encoder: From ``load_recipe_encoder``.
        out: Where to.

    Returns:
        dict: What ``results.json`` holds.
    """
    evaluation = Evaluation(recipe, dataset, make_tasks(recipe, encoder, dataset), out)
    evaluation.ask(run.adapter)
    fusions, refusal = fit_calibration(recipe, run, evaluation, encoder, out)
    if fusions:
        evaluation.fuse(fusions)
    args = recipe.eval
    metadata = {"dataset": dataset.name, "split": args.split, "mode": recipe.ranker.mode, "k": args.k}
    metadata |= {"bootstrap": args.bootstrap, "skipped": dict(dataset.skipped)}
    metadata |= {"adapter": run.weights, "encoder": encoder.id}
    metadata |= {
        "settings": evaluation_stamp(recipe, run, dataset, encoder),
        "leaks": find_leaks(recipe, encoder, dataset, run.folder),
    }
    metadata |= {"fusion": {kind: asdict(fusion) for kind, fusion in fusions.items()}} if fusions else {}
    metadata |= {"refusal": asdict(refusal)} if refusal else {}
    metrics = Metrics(metadata)
    pictures = evaluation.pictures()
    with file_lock(out):  # or files of two evaluations that end at once would be taken for one's
        write_text(out / "predictions.jsonl", (metrics.line(record) for record in evaluation.predictions()))
        results = metrics.results()
        write_json(out / "pictures.json", pictures)
        write_results(out, results, FILES)
        log.info("wrote %s, predictions.jsonl and %s", out / "results.json", write_page(out).name)
    if wandb_mode(recipe.tracking) != "disabled":
        with open(out / "predictions.jsonl", encoding="utf-8") as lines:
            evaluated = Evaluated(out.name, results, group_cases(lines), pictures)
        track_evaluation(recipe, run.folder, evaluated)
    return results


def evaluation_stamp(recipe: Recipe, run: Run, dataset: Dataset, encoder: Encoder) -> str:
    """Identifies an evaluation by its models, settings and images: those evaluated, remembered, fitted on and mined."""
    parts = dict(dataset.parts)
    if _fits(recipe) and recipe.eval.split != "val":
        parts |= _to_fit_on(recipe, run)[1].parts
    images = [[part, [[s.key, s.digest, s.label] for s in own]] for part, own in sorted(parts.items())]
    models = [models_key(recipe.ranker, run.adapter), encoder.id, recipe.ranker.mode]
    settings = [asdict(recipe.data), asdict(recipe.retriever), asdict(recipe.eval), recipe.seed]
    return fingerprint([models, settings, dataset.names, images, sorted(read_mined(run.folder))])
