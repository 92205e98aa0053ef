"""Evaluates several data sets one after the other, and combines them in one table."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.results_file import RESULTS, read_results
from data_prep.datasets import FEW_SHOT, FINE_GRAINED, OWN
from data_prep.settings import Recipe
from eval.recognition.evaluate import Run, evaluate, evaluation_fingerprint, load_recipe_encoder, read_checked
from eval.report.combined import combine
from eval.report.reading import FILES

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


def evaluate_several(recipes: dict[str, Recipe], run: Run, task: str) -> dict:
    """Evaluates data sets one by one, each in its own folder; complete evaluations are reused.

    Args:
        recipes: Recipes by data set.
        run: The run.
        task: Task name, for the folder's name.

    Returns:
        dict: The content of the combined ``results.json``.

    Raises:
        UserError: A data set is missing or wrong; all are read before a model is loaded.
    """
    first = next(iter(recipes.values()))
    folder = run.folder / "eval" / f"{task}-{first.eval.split}-{first.ranker.mode_label}"
    for recipe in recipes.values():
        read_checked(recipe, run.folder)
    encoder = load_recipe_encoder(first)
    for name, recipe in recipes.items():
        dataset = read_checked(recipe, run.folder)
        if _is_complete(folder / name, evaluation_fingerprint(recipe, run, dataset, encoder)):
            log.info("%s: reusing %s", name, folder / name)
            continue
        log.info("%s: evaluating", name)
        evaluate(recipe, run, dataset, encoder, folder / name)
    return combine(folder, list(recipes))


def _is_complete(folder: Path, stamp: str) -> bool:
    """Returns whether a folder has an undamaged evaluation of the same models, settings and images."""
    if not (folder / RESULTS).is_file():
        return False
    try:
        return read_results(folder, FILES).get("settings") == stamp
    except UserError as error:
        log.warning("%s; evaluating", error)
        return False
