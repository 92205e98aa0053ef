"""One evaluation after another over several data sets, and one table of them all."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.results_file import RESULTS, read_results
from data_prep.datasets import FEW_SHOT, FINE_GRAINED, OWN
from data_prep.settings import Recipe
from eval.recognition.evaluate import Run, evaluate, evaluation_stamp, load_recipe_encoder, read_checked
from eval.report.combined import combine
from eval.report.reading import FILES

log = logging.getLogger(__name__)

NAMES = ("armory", *FEW_SHOT, *FINE_GRAINED, *OWN)


def recipe_by_dataset(recipe: Recipe, names: list[str], own_templates: bool) -> dict[str, Recipe]:
    """A recipe for each data set, which differ in nothing else.

    Args:
        recipe: With ``data.root``, the folder of all of them; armory has none.
        names: Data sets.
        own_templates: Each data set's prompts are used, whatever the recipe names: those are of its own data set.

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
    retriever = replace(recipe.retriever, templates=[]) if own_templates else recipe.retriever
    return {
        name: replace(
            recipe,
            data=replace(recipe.data, name=name, root=None if name == "armory" else recipe.data.root),
            retriever=retriever,
        )
        for name in names
    }


def evaluate_several(recipes: dict[str, Recipe], run: Run, task: str) -> dict:
    """Evaluates data sets one by one, each in a folder of its own; those that are complete are reused.

    Args:
        recipes: By data set.
        run: The run.
        task: For the folder's name.

    Returns:
        dict: What the combined ``results.json`` holds.

    Raises:
        UserError: A data set is missing or wrong; all are read before a model is loaded.
    """
    one = next(iter(recipes.values()))
    folder = run.folder / "eval" / f"{task}-{one.eval.split}-{one.ranker.mode}"
    for recipe in recipes.values():
        read_checked(recipe, run.folder)
    encoder = load_recipe_encoder(one)
    for name, recipe in recipes.items():
        dataset = read_checked(recipe, run.folder)
        if _complete(folder / name, evaluation_stamp(recipe, run, dataset, encoder)):
            log.info("%s: reusing %s", name, folder / name)
            continue
        log.info("%s: evaluating", name)
        evaluate(recipe, run, dataset, encoder, folder / name)
    return combine(folder, list(recipes))


def _complete(folder: Path, expected: str) -> bool:
    """Whether an evaluation is there, of the same models, settings and images, and undamaged."""
    if not (folder / RESULTS).is_file():
        return False
    try:
        return read_results(folder, FILES).get("settings") == expected
    except UserError as error:
        log.warning("%s; evaluating", error)
        return False
