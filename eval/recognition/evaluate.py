"""Evaluates one data set: retrieves, ranks, calibrates on the validation split, scores, and writes the files."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_prep.core.files import file_lock, fingerprint, read_json, write_json
from data_prep.core.results_file import write_results
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.leakage.contamination import read_mined
from data_prep.settings import DataArgs, Recipe, RetrieverArgs
from data_prep.settings.loading import load_saved_recipe
from eval.calibration.choice import Choice
from eval.calibration.open_set import Refusal
from eval.calibration.store import choices_path, save_choices
from eval.ranking.answer_key import models_key
from eval.recognition.choosing import RankingChooser, make_fixed_choices
from eval.recognition.evaluation import Evaluation
from eval.recognition.leak_check import find_leaks, refuse_copies
from eval.recognition.tasks import make_open_set_task, make_tasks
from eval.recognition.tracking import track_evaluation
from eval.report.page import write_page
from eval.report.predictions import PREDICTIONS, write_predictions
from eval.report.reading import FILES, read_evaluations
from eval.report.results import MetricsAccumulator
from rar_train.engine.wandb_mode import wandb_mode

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The run to evaluate.

    Attributes:
        folder: The run's folder.
        adapter: The tuned model's adapter.
    """

    folder: Path
    adapter: Path

    @property
    def weights(self) -> str:
        """SHA-256 of the adapter."""
        return read_json(self.adapter / "manifest.json")["adapter"]

    def matches(self, recipe: Recipe) -> bool:
        """Returns whether a recipe evaluates the data set that the run was made with, by the same retriever."""
        run_recipe = load_saved_recipe(self.folder / "recipe.yaml", [])
        same_data = _normalize_data(recipe.data) == _normalize_data(run_recipe.data)
        return same_data and _normalize_retriever(recipe.retriever) == _normalize_retriever(run_recipe.retriever)

    def leaves_more_open(self, recipe: Recipe) -> bool:
        """Returns whether the run's recipe has something chosen on validation images that a recipe fixes or narrows."""
        own = load_saved_recipe(self.folder / "recipe.yaml", [])
        keys = ("k", "candidates", "permutations")
        fixes = any(getattr(own.eval, key) == "auto" != getattr(recipe.eval, key) for key in keys)
        narrows = (own.eval.k_max, own.eval.fit_images) != (recipe.eval.k_max, recipe.eval.fit_images)
        return fixes or narrows or (own.fuses and not recipe.fuses)


def _normalize_data(data: DataArgs) -> DataArgs:
    """Normalizes the settings that identify a data set: an absolute root, and not how errors are handled."""
    root = data.root and str(Path(data.root).resolve())
    return replace(data, root=root, on_error="skip")


def _normalize_retriever(retriever: RetrieverArgs) -> RetrieverArgs:
    """Normalizes a retriever's settings, leaving out those that only affect its speed."""
    return replace(retriever, batch_size=1, num_workers=0, mmap=False)


def results_folder(recipe: Recipe, run: Path) -> Path:
    """Returns the folder of an evaluation's results."""
    return run / "eval" / f"{recipe.eval.split}-{recipe.ranker.mode_label}"


def read_checked(recipe: Recipe, run: Path) -> Dataset:
    """Reads the evaluated split and its memory pool, and checks them for leaks.

    Raises:
        UserError: They are missing or wrong, or the split's images may not be evaluated; see ``refuse_copies``.
    """
    split = recipe.eval.split
    dataset = read_dataset(recipe.data, Path(recipe.cache), (f"{split}_memory", split))
    refuse_copies(recipe, dataset, run)
    return dataset


def load_recipe_encoder(recipe: Recipe) -> Encoder:
    """Loads the recipe's encoder, on this machine's processes."""
    return load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))


def _validation_data(recipe: Recipe, run: Run) -> tuple[Recipe, Dataset]:
    """Returns the recipe on the validation split, and the images on which rankings and thresholds are chosen."""
    recipe = replace(recipe, eval=replace(recipe.eval, split="val", ranker_only_images=0))
    dataset, max_images = read_checked(recipe, run.folder), recipe.eval.fit_images
    if max_images:
        samples = dataset.parts["val"]
        dataset.parts["val"] = [samples[index] for index in evenly_spaced(len(samples), max_images)]
    return recipe, dataset


def _needs_validation(recipe: Recipe) -> bool:
    """Returns whether an evaluation chooses or fits something on the validation split."""
    args, likelihood = recipe.eval, recipe.ranker.mode == "likelihood"
    open_settings = [args.k, args.candidates, *(() if likelihood else (args.permutations,))]
    return recipe.fuses or "auto" in open_settings or args.open_set_fraction > 0


def choose_rankings(recipe: Recipe, run: Run, encoder: Encoder, out: Path) -> tuple[dict[str, Choice], Refusal | None]:
    """Chooses how to rank, and fits the threshold for unknown classes, on the validation split; and saves both.

    Args:
        recipe: The evaluation's recipe.
        run: The run. What is chosen on its own data set with its own retriever is saved there, for other evaluations
            and for inference.
        encoder: The retriever's encoder.
        out: The evaluation's folder. Other choices are saved in it.
    """
    args, belongs_to_run = recipe.eval, run.matches(recipe)
    if not _needs_validation(recipe):
        return make_fixed_choices(args), None
    log.info("choosing how to rank on the validation split")
    recipe, dataset = _validation_data(recipe, run)
    folder = (run.folder / "eval" if belongs_to_run else out) / f"validation-{recipe.ranker.mode_label}"
    choices = RankingChooser(recipe, dataset, encoder).choose(run.adapter, folder)
    refusal = None
    if args.open_set_fraction:
        task = make_open_set_task(recipe, encoder, dataset, choices)
        evaluation = Evaluation(recipe, dataset, [task], folder)
        evaluation.rank(run.adapter, untuned=False)
        refusal = evaluation.fit_refusal()
    path, note = choices_path(run.folder, recipe.ranker.mode_label, run.adapter), ""
    if not belongs_to_run:
        path, note = out / "choices.json", ", as data set or retriever are not the run's own"
    elif path.exists() and run.leaves_more_open(recipe):
        path, note = out / "choices.json", ", as the run's own settings leave more to choose"
    save_choices(path, run.weights, encoder.id, choices, refusal)
    log.info("choices: %s%s", path, note)
    return choices, refusal


def evaluate(recipe: Recipe, run: Run, dataset: Dataset, encoder: Encoder, out: Path) -> dict:
    """Runs an evaluation from retrieval to results, and writes its files.

    Args:
        recipe: All settings.
        run: The run.
        dataset: From ``read_checked``.
        encoder: From ``load_recipe_encoder``.
        out: Folder to write to.

    Returns:
        dict: The content of ``results.json``.
    """
    choices, refusal = choose_rankings(recipe, run, encoder, out)
    tasks = make_tasks(recipe, encoder, dataset, choices)
    tasks += [make_open_set_task(recipe, encoder, dataset, choices)] if recipe.eval.open_set_fraction else []
    evaluation = Evaluation(recipe, dataset, tasks, out)
    evaluation.rank(run.adapter)
    evaluation.fuse({kind: choice.fusion for kind, choice in choices.items() if choice.fusion})
    args = recipe.eval
    metadata = {"dataset": dataset.name, "split": args.split, "mode": recipe.ranker.mode}
    metadata |= {"k": max(choice.k for choice in choices.values())}
    metadata |= {"bootstrap": args.bootstrap, "skipped": dict(dataset.skipped)}
    metadata |= {"adapter": run.weights, "encoder": encoder.id}
    metadata |= {
        "settings": evaluation_fingerprint(recipe, run, dataset, encoder),
        "leaks": find_leaks(recipe, encoder, dataset, run.folder),
    }
    metadata |= {"choice": {kind: asdict(choice) for kind, choice in choices.items()}}
    metadata |= {"refusal": asdict(refusal)} if refusal else {}
    metrics = MetricsAccumulator(metadata)
    image_files = evaluation.image_files()
    with file_lock(out):  # or the files of two evaluations that end at once could be mixed
        write_predictions(out, dataset.names, metrics.pass_through(evaluation.predictions()))
        results = metrics.results()
        write_json(out / "pictures.json", image_files)
        write_results(out, results, FILES)
        ((_, evaluated),) = read_evaluations(out)
        page = write_page(out, evaluated)
        log.info("wrote %s, %s and %s", out / "results.json", PREDICTIONS, page.name)
    if wandb_mode(recipe.tracking) != "disabled":
        track_evaluation(recipe, run.folder, replace(evaluated, name=out.name))
    return results


def evaluation_fingerprint(recipe: Recipe, run: Run, dataset: Dataset, encoder: Encoder) -> str:
    """Hashes an evaluation's models, settings and images: the evaluated, remembered, calibration and mined ones."""
    parts = dict(dataset.parts)
    if _needs_validation(recipe) and recipe.eval.split != "val":
        parts |= _validation_data(recipe, run)[1].parts
    images = [[part, [[s.key, s.digest, s.label] for s in samples]] for part, samples in sorted(parts.items())]
    models = [models_key(recipe.ranker, run.adapter), encoder.id, recipe.ranker.mode]
    settings = [asdict(recipe.data), asdict(recipe.retriever), asdict(recipe.eval), recipe.seed]
    classes = [dataset.names, sorted(dataset.descriptions.items())]
    return fingerprint([models, settings, classes, images, sorted(read_mined(run.folder))])
