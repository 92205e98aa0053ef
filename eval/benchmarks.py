"""One evaluation after another over several data sets, and one table of them all."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from data_prep.datasets import FEW_SHOT, FINE_GRAINED, OWN
from data_prep.errors import UserError
from data_prep.files import read_json
from data_prep.settings import Recipe
from eval.combined import combine
from eval.evaluate import Run, encoder_of, evaluate, read_checked, stamp

log = logging.getLogger(__name__)

NAMES = ("armory", *FEW_SHOT, *FINE_GRAINED, *OWN)


def recipes_of(recipe: Recipe, names: list[str], own_templates: bool) -> dict[str, Recipe]:
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
    stamps = {name: stamp(recipe, run, read_checked(recipe, run.folder)) for name, recipe in recipes.items()}
    open_ones = [name for name in recipes if not _complete(folder / name, stamps[name])]
    encoder = encoder_of(one) if open_ones else None
    for name, recipe in recipes.items():
        if name not in open_ones:
            log.info("%s: reusing %s", name, folder / name)
            continue
        log.info("%s: evaluating", name)
        evaluate(recipe, run, read_checked(recipe, run.folder), encoder, folder / name)
    return combine(folder, list(recipes))


def _complete(folder: Path, expected: str) -> bool:
    results = folder / "results.json"
    there = results.is_file() and (folder / "predictions.jsonl").is_file()
    return there and read_json(results).get("settings") == expected
