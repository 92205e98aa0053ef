"""Limits an evaluation to base or new classes, and checks that its run was not tuned on new ones."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.datasets import Dataset
from data_prep.leakage.contamination import read_mined
from data_prep.reading.class_halves import half_labels, limit_classes
from data_prep.settings import Recipe

log = logging.getLogger(__name__)


def limit_evaluated(recipe: Recipe, dataset: Dataset, run: Path) -> Dataset:
    """Returns the evaluated split and its memory with the classes of ``eval.classes``, named after them.

    Args:
        recipe: ``eval.split``, ``eval.classes`` and ``eval.leaks``.
        dataset: With both parts.
        run: The run's folder, with the list of the images that it was tuned on.

    Raises:
        UserError: The half has too few classes or images; or new classes are evaluated of which the run was tuned on
            images, and ``eval.leaks`` is not ``allow``.
    """
    half = recipe.eval.classes
    if half == "all":
        return dataset
    parts = (recipe.eval.split, f"{recipe.eval.split}_memory")
    limited = limit_classes(dataset, half, parts, f"eval.classes={half}")
    if half == "new":
        _check_untuned(recipe, limited, run)
    return replace(limited, name=f"{dataset.name} {half}")


def _check_untuned(recipe: Recipe, dataset: Dataset, run: Path) -> None:
    """Checks that no image of the new classes was mined for the run's training."""
    mined, memory = read_mined(run), f"{recipe.eval.split}_memory"
    tuned = [sample for sample in dataset.parts[memory] if sample.digest in mined]
    if not tuned:
        return
    found = (
        f"{run}: was tuned on {len(tuned)} images of the new classes of {dataset.name}; the first is {tuned[0].path}, "
        f"of {dataset.names[tuned[0].label]}"
    )
    if recipe.eval.leaks != "allow":
        raise UserError(f"{found}. Tune it with data.tune_classes=base, or set eval.leaks=allow to keep and count them")
    log.warning("%s", found)


def check_choosing(recipe: Recipe, validation: Dataset) -> None:
    """Checks that nothing is chosen on validation images of new classes, where those are evaluated.

    Raises:
        UserError: There are such images, and ``eval.leaks`` is not ``allow``.
    """
    if recipe.eval.classes != "new" or recipe.eval.leaks == "allow":
        return
    new = half_labels(len(validation.names), "new")
    count = sum(sample.label in new for sample in validation.parts["val"])
    if count:
        raise UserError(
            f"eval.classes=new: {count} of the {len(validation.parts['val'])} validation images, on which settings are "
            "chosen, are of new classes. Set data.tune_classes=base, or eval.leaks=allow to choose on them"
        )
