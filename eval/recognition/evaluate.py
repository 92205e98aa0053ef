"""Evaluates one data set: retrieves, ranks, calibrates on the validation split, scores, and writes the files."""

from __future__ import annotations

import gc
import logging
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from data_prep.core.files import file_lock, fingerprint, write_folder, write_json
from data_prep.core.records import Sample
from data_prep.core.results_file import write_results
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import Encoder
from data_prep.embedding.known import open_encoder
from data_prep.leakage.contamination import read_mined
from data_prep.reading.class_halves import tuned_labels
from data_prep.settings import POINTWISE, Recipe
from data_prep.settings.notes import embedded_model_note
from eval.calibration.choice import Choice
from eval.calibration.open_set import Refusal
from eval.calibration.store import choices_path, holds_choices, save_choices
from eval.ranking.answer_key import models_key
from eval.recognition.choosing import RankingChooser, make_fixed_choices
from eval.recognition.class_halves import check_choosing, limit_evaluated
from eval.recognition.clip_lora import check_draws, identify_draws
from eval.recognition.evaluation import Evaluation
from eval.recognition.leak_check import count_unembedded, find_leaks, resolve_leaks
from eval.recognition.multiple_choice import make_choice_task
from eval.recognition.reuse import hash_code, hash_files, mark_complete, read_complete
from eval.recognition.run import Run
from eval.recognition.tasks import fit_to_encoder, make_open_set_task, make_tasks
from eval.recognition.tracking import track_evaluation
from eval.report.index import write_index
from eval.report.page import write_pages
from eval.report.predictions import PREDICTIONS, relative_paths, write_predictions
from eval.report.reading import FILES, CaseCollector, read_evaluation
from eval.report.results import MetricsAccumulator
from rar_train.engine.result_folder import choose_folder, find_changes, identify, result_name
from rar_train.engine.wandb_mode import wandb_mode

log = logging.getLogger(__name__)

_GC_THRESHOLD = 100_000
"""New objects between garbage collections. An evaluation keeps millions of small records, none of them in cycles, and
with Python's 700 a seventh of its time went into looking for some."""
_AFTER_RANKING = {
    "eval.fusion", "eval.gate", "eval.gate_loss", "eval.aggregate", "eval.bootstrap", "eval.leaks",
    "eval.near_duplicate_threshold", "eval.metrics",
}  # fmt: skip
"""Settings that leave the rankers' answers as they are."""


def describe_evaluation(recipe: Recipe, run: Run, encoder: Encoder) -> dict:
    """Describes what distinguishes an evaluation from others of its run.

    Returns:
        dict: ``changes``, the settings that differ from the run's own, by key; and ``identity``, a hash of models and
        settings.
    """
    changes = find_changes(run.recipe, recipe)
    return {
        "changes": changes,
        "identity": identify(recipe, changes, _list_models(recipe, run, encoder)),
    }


def _list_models(recipe: Recipe, run: Run, encoder: Encoder) -> list[str]:
    """Lists what identifies the models of an evaluation."""
    return [models_key(recipe.ranker, run.adapter), encoder.id, *identify_draws(recipe.eval)]


def results_folder(recipe: Recipe, run: Run, encoder: Encoder, name: str | None = None) -> Path:
    """Chooses the folder of an evaluation's results, which holds no results of another one.

    Args:
        recipe: All settings.
        run: The run.
        encoder: The retriever's encoder.
        name: The folder's name; None for one made from split, mode and differing settings.

    Raises:
        UserError: The name is invalid, or is that of another evaluation.
    """
    base = f"{recipe.eval.split}-{recipe.ranker.mode_label}{run.suffix}"
    evaluation, parent = describe_evaluation(recipe, run, encoder), run.folder / "eval"
    folder = choose_folder(parent, base, evaluation["changes"], evaluation["identity"], name)
    ranking = {key: value for key, value in evaluation["changes"].items() if key not in _AFTER_RANKING}
    _copy_answers(parent / result_name(base, ranking), folder)
    return folder


def _copy_answers(source: Path, folder: Path) -> None:
    """Copies answers from an evaluation whose ranking settings are the same, so that they are not computed again."""
    for answers in source.glob("answers-*"):
        if answers.is_dir() and not (folder / answers.name).exists():
            log.info("using the answers in %s", answers)
            with write_folder(folder / answers.name) as part:
                for path in answers.glob("answers-*.jsonl"):
                    shutil.copy2(path, part / path.name)


def read_checked(recipe: Recipe, run: Path) -> Dataset:
    """Reads the evaluated split and its memory pool, of the evaluated classes, and checks them for leaks.

    Raises:
        UserError: They are missing or wrong, or the split's images may not be evaluated; see ``resolve_leaks``.
    """
    split = recipe.eval.split
    dataset = read_dataset(recipe.data, Path(recipe.cache), (f"{split}_memory", split))
    return limit_evaluated(recipe, resolve_leaks(recipe, dataset, run), run)


def load_recipe_encoder(recipe: Recipe) -> Encoder:
    """Opens the recipe's encoder, on this machine's processes."""
    return open_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1), Path(recipe.cache))


def _validation_data(recipe: Recipe, run: Run) -> tuple[Recipe, Dataset] | None:
    """Returns the recipe on the validation split, and the images on which rankings and thresholds are chosen, if any.

    None means that nothing is chosen or fitted there.
    """
    if not _needs_validation(recipe):
        return None
    evaluated = recipe
    recipe = replace(recipe, eval=replace(recipe.eval, split="val", classes="all", ranker_only_images=0))
    dataset, max_images = read_checked(recipe, run.folder), recipe.eval.fit_images
    check_choosing(evaluated, dataset)
    if max_images:
        samples = dataset.parts["val"]
        dataset.parts["val"] = [samples[index] for index in evenly_spaced(len(samples), max_images)]
    return recipe, dataset


def _needs_validation(recipe: Recipe) -> bool:
    """Returns whether an evaluation chooses or fits something on the validation split."""
    args, pointwise = recipe.eval, recipe.ranker.mode in POINTWISE
    open_settings = [args.k, args.candidates, *(() if pointwise else (args.permutations,))]
    has_adapters = bool(args.fitted_adapters) and (bool(args.shots) or args.full_train_memory)
    return recipe.fuses or "auto" in open_settings or args.open_set_fraction > 0 or has_adapters


def choose_rankings(
    recipe: Recipe, run: Run, encoder: Encoder, out: Path, validation: tuple[Recipe, Dataset] | None
) -> tuple[dict[str, Choice], Refusal | None]:
    """Chooses how to rank, and fits the threshold for unknown classes, on the validation split; and saves both.

    Args:
        recipe: The evaluation's recipe.
        run: The run. What is chosen on its own data set with its own retriever is saved there, for other evaluations
            and for inference.
        encoder: The retriever's encoder.
        out: The evaluation's folder. Other choices are saved in it.
        validation: From ``_validation_data``.
    """
    args = recipe.eval
    belongs_to_run = run.matches(recipe) and args.clip_lora is None  # whose draws are no part of the run
    if validation is None:
        return make_fixed_choices(args), None
    log.info("choosing how to rank, on the validation split")
    recipe, dataset = validation
    folder = (run.folder / "eval" if belongs_to_run else out) / f"validation-{recipe.ranker.mode_label}"
    # Of another data set nothing was tuned on.
    tuned = tuned_labels(recipe.data, dataset, "val_memory") if run.has_data(recipe) else []
    chooser = RankingChooser(recipe, dataset, encoder, [dataset.names[label] for label in tuned])
    choices = chooser.choose(run.adapter, folder)
    refusal = None
    if args.open_set_fraction:
        task = make_open_set_task(recipe, encoder, dataset, choices)
        evaluation = Evaluation(recipe, dataset, [task], folder)
        evaluation.rank(run.adapter, untuned=False)
        refusal = evaluation.fit_refusal()
    path, note = choices_path(run.folder, recipe.ranker.mode_label, run.adapter), ""
    if not belongs_to_run:
        path, note = out / "choices.json", ", as data set or encoders are not the run's own"
    elif path.exists() and run.leaves_more_open(recipe):
        path, note = out / "choices.json", ", as the run's own settings leave more to choose"
    save_choices(path, run.weights, encoder.id, choices, refusal)
    log.info("choosing how to rank: the choices are in %s%s", path, note)
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
    gc.set_threshold(_GC_THRESHOLD)
    given, recipe = recipe, fit_to_encoder(recipe, encoder)
    check_draws(recipe, encoder, dataset)
    validation = _validation_data(recipe, run)
    inputs = _hash_evaluation(given, run, dataset, encoder, validation)
    stamp = _make_stamp(inputs, given, run, dataset, encoder)
    complete = read_complete(out, stamp, recipe)
    if complete is not None and _has_choices(complete, recipe, run, encoder, out):
        log.info("reusing %s: images, models, settings and code are the same", out)
        write_index(run.folder)
        return complete
    choices, refusal = choose_rankings(recipe, run, encoder, out, validation)
    tasks = make_tasks(recipe, encoder, dataset, choices)
    tasks += [make_open_set_task(recipe, encoder, dataset, choices)] if recipe.eval.open_set_fraction else []
    tasks += [make_choice_task(recipe, encoder, dataset)] if recipe.eval.choices else []
    evaluation = Evaluation(recipe, dataset, tasks, out)
    evaluation.rank(run.adapter)
    evaluation.fuse({kind: choice.fusion for kind, choice in choices.items() if choice.fusion})
    args = recipe.eval
    metadata = {"dataset": dataset.name, "split": args.split, "mode": recipe.ranker.mode}
    metadata |= {"k": max(choice.k for choice in choices.values())}
    metadata |= {"bootstrap": args.bootstrap, "skipped": dict(dataset.skipped)}
    metadata |= {"adapter": run.weights, "encoder": encoder.id}
    metadata |= {
        "settings": inputs,
        "leaks": find_leaks(recipe, encoder, dataset, run.folder),
    }
    metadata |= {"metrics": list(args.metrics)} if args.metrics else {}
    metadata |= {"choices": args.choices} if args.choices else {}
    metadata |= {"choice": {kind: asdict(choice) for kind, choice in choices.items()}}
    metadata |= {"refusal": asdict(refusal)} if refusal else {}
    metadata |= {"evaluation": describe_evaluation(given, run, encoder)}
    metadata |= {"shots_held": _count_shots(recipe, dataset), "notes": _notes(recipe)}
    metrics, cases = MetricsAccumulator(metadata), CaseCollector()
    image_files = evaluation.image_files()
    root, paths = relative_paths(image_files["images"], recipe.data.root)
    with file_lock(out):  # or the files of two evaluations that end at once could be mixed
        predictions = cases.pass_through(metrics.pass_through(evaluation.predictions()))
        write_predictions(out, dataset.names, predictions, paths)
        results = metrics.results()
        write_json(out / "pictures.json", {"root": root} | image_files)
        write_results(out, results, FILES)
        evaluated = read_evaluation(out, cases)
        pages = write_pages(out, evaluated)
        hashes = hash_files(out, pages)
        log.info("wrote %s, %s, %s", out / "results.json", PREDICTIONS, ", ".join(path.name for path in pages))
    write_index(run.folder)
    if wandb_mode(recipe.tracking) != "disabled":
        name = out.relative_to(run.folder / "eval").as_posix() if out.is_relative_to(run.folder / "eval") else out.name
        track_evaluation(recipe, run.folder, replace(evaluated, name=name))
    mark_complete(out, stamp, recipe, hashes)
    return results


def _make_stamp(inputs: str, recipe: Recipe, run: Run, dataset: Dataset, encoder: Encoder) -> str:
    """Hashes all that the files of an evaluation depend on: its inputs, where the images are, and the code."""
    paths = {part: [ascii(sample.path) for sample in samples] for part, samples in dataset.parts.items()}
    unembedded = count_unembedded(recipe, encoder, run.folder)
    evaluation = describe_evaluation(recipe, run, encoder)
    return fingerprint([inputs, evaluation, paths, sorted(dataset.skipped.items()), unembedded, hash_code()])


def _has_choices(results: dict, recipe: Recipe, run: Run, encoder: Encoder, out: Path) -> bool:
    """Returns whether the choices of an evaluation are stored, for the run or in the evaluation's folder."""
    paths = choices_path(run.folder, recipe.ranker.mode_label, run.adapter), out / "choices.json"
    choices, refusal = results["choice"], results.get("refusal")
    stored = (holds_choices(path, run.weights, encoder.id, choices, refusal) for path in paths)
    return not _needs_validation(recipe) or any(stored)


def _notes(recipe: Recipe) -> list[str]:
    note = embedded_model_note(recipe)
    return [note] if note else []


def _count_shots(recipe: Recipe, dataset: Dataset) -> dict[str, dict[str, int]]:
    """Counts, for each number of shots that some classes lack, those classes: ``classes``, ``fewer`` and ``most``."""
    sizes = Counter(sample.label for sample in dataset.parts[f"{recipe.eval.split}_memory"])
    counts = {}
    for shots in recipe.eval.shots:
        fewer = sum(size < shots for size in sizes.values())
        if fewer:
            counts[str(shots)] = {"classes": len(sizes), "fewer": fewer, "most": max(sizes.values())}
    return counts


def evaluation_fingerprint(recipe: Recipe, run: Run, dataset: Dataset, encoder: Encoder) -> str:
    """Hashes an evaluation's models, settings and images: the evaluated, remembered, calibration and mined ones."""
    return _hash_evaluation(recipe, run, dataset, encoder, _validation_data(recipe, run))


def _name_pools(dataset: Dataset) -> dict[str, list[Sample]]:
    """Returns the samples that shots are sampled from, where classes are limited, by a name of their own."""
    return {f"pool of {part}": samples for part, samples in dataset.pools.items()}


def _hash_evaluation(
    recipe: Recipe, run: Run, dataset: Dataset, encoder: Encoder, validation: tuple[Recipe, Dataset] | None
) -> str:
    parts = dataset.parts | _name_pools(dataset)
    if validation and recipe.eval.split != "val":
        parts |= validation[1].parts | _name_pools(validation[1])
    images = [[part, [[s.key, s.digest, s.label] for s in samples]] for part, samples in sorted(parts.items())]
    models = [*_list_models(recipe, run, encoder), recipe.ranker.mode]
    settings = [asdict(recipe.data), asdict(recipe.retriever), asdict(recipe.eval), recipe.seed]
    classes = [dataset.names, sorted(dataset.descriptions.items())]
    return fingerprint([models, settings, classes, images, sorted(read_mined(run.folder))])
