"""Evaluates several data sets one after the other, and combines them in one table."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.results_file import RESULTS, read_results
from data_prep.datasets import FEW_SHOT, FINE_GRAINED, OWN
from data_prep.reading.class_halves import HALVES
from data_prep.settings import Recipe
from eval.ranking.answer_key import models_key
from eval.recognition.evaluate import evaluate, evaluation_fingerprint, load_recipe_encoder, read_checked
from eval.recognition.run import Run
from eval.report.combined import combine
from eval.report.index import write_index
from eval.report.reading import FILES
from eval.report.rescore import rescore
from rar_train.engine.result_folder import choose_folder, find_changes, identify, result_name

log = logging.getLogger(__name__)

NAMES = ("armory", *FEW_SHOT, *FINE_GRAINED, *OWN)


def recipe_by_dataset(recipe: Recipe, names: list[str], default_templates: bool) -> dict[str, Recipe]:
    """Makes a recipe for each data set; they differ in nothing else.

    Args:
        recipe: With ``data.root``, the folder of all of them; armory has none.
        names: Data sets.
        default_templates: Use each data set's default prompt templates and not the recipe's, which are those of the
            run's data set.

    Raises:
        UserError: An unknown data set, one named twice, or several of your own that one root cannot hold.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise UserError(f"--datasets {unknown[0]}: there are {', '.join(NAMES)}")
    if len(set(names)) < len(names):
        raise UserError(f"--datasets {' '.join(names)}: each may be named once")
    if set(names) & OWN.keys() and len(names) > 1:
        raise UserError(f"--datasets {' '.join(names)}: evaluate {', '.join(OWN)} alone, as data.root is theirs")
    retriever = replace(recipe.retriever, templates=[]) if default_templates else recipe.retriever
    return {
        name: replace(
            recipe,
            data=replace(recipe.data, name=name, root=None if name == "armory" else recipe.data.root),
            retriever=retriever,
        )
        for name in names
    }


def halve_classes(recipes: dict[str, Recipe]) -> dict[str, Recipe]:
    """Makes a recipe of each half of the classes of each data set: ``NAME-base`` and ``NAME-new``."""
    return {
        f"{name}-{half}": replace(recipe, eval=replace(recipe.eval, classes=half))
        for name, recipe in recipes.items()
        for half in HALVES
    }


def evaluate_several(
    recipes: dict[str, Recipe], run: Run, task: str, own: Recipe, name: str | None = None, halves: bool = False
) -> dict:
    """Evaluates data sets one by one, each in its own folder; complete evaluations are reused.

    Args:
        recipes: Recipes by data set.
        run: The run.
        task: Task name, for the folder's name.
        own: The run's recipe with the task's settings, for the settings that differ.
        name: Name of the folder; None for one made from task, split, mode and differing settings.
        halves: Whether they are halves of data sets' classes, from ``halve_classes``.

    Returns:
        dict: The content of the combined ``results.json``.

    Raises:
        UserError: A data set is missing or wrong, or the folder of the name holds another evaluation; all are read
            before a model is loaded.
    """
    first = next(iter(recipes.values()))
    for recipe in recipes.values():
        read_checked(recipe, run.folder)
    encoder = load_recipe_encoder(first)
    ignored = ["data.name", "data.root", *([] if first.retriever.templates else ["retriever.templates"])]
    implied = ["data.tune_classes", "eval.classes"] if halves else []
    changes = find_changes(own, first, [*ignored, *implied])
    roots = sorted({str(Path(recipe.data.root or "").resolve()) for recipe in recipes.values()})
    identity = identify(first, changes, [models_key(first.ranker, run.adapter), encoder.id, task, *roots], ignored)
    base = f"{task}-{first.eval.split}-{first.ranker.mode_label}{run.suffix}"
    folder = choose_folder(run.folder / "eval", base, changes, identity, name)
    folder = _keep_datasets(folder, list(recipes), name)
    for dataset_name, recipe in recipes.items():
        dataset = read_checked(recipe, run.folder)
        if _is_complete(folder / dataset_name, evaluation_fingerprint(recipe, run, dataset, encoder)):
            log.info("%s: reusing %s", dataset_name, folder / dataset_name)
            if recipe.eval.metrics:  # whose code may have changed
                rescore(folder / dataset_name, recipe.eval.metrics)
            continue
        log.info("%s: evaluating", dataset_name)
        evaluate(recipe, run, dataset, encoder, folder / dataset_name)
    evaluation = {"changes": changes, "identity": identity} | ({"base_to_new": True} if halves else {})
    results = combine(folder, list(recipes), evaluation)
    write_index(run.folder)
    return results


def _keep_datasets(folder: Path, names: list[str], name: str | None) -> Path:
    """Returns the folder, or another one where it holds a table with data sets that are not among these.

    Raises:
        UserError: It does, and the user gave its name.
    """
    held = read_json(folder / RESULTS).get("datasets", []) if (folder / RESULTS).is_file() else []
    if set(held) <= set(names):
        return folder
    if name is not None:
        raise UserError(f"{folder}: holds a table of {', '.join(held)}, which is not overwritten; give another --name")
    other = folder.with_name(result_name(f"{folder.name}-{'+'.join(names)}", {}))
    log.info("%s holds a table of %s, which is kept: writing %s", folder, ", ".join(held), other.name)
    return other


def _is_complete(folder: Path, stamp: str) -> bool:
    """Returns whether a folder has an undamaged evaluation of the same models, settings and images."""
    if not (folder / RESULTS).is_file():
        return False
    try:
        return read_results(folder, FILES).get("settings") == stamp
    except UserError as error:
        log.warning("%s; evaluating", error)
        return False
