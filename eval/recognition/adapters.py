"""Hyperparameters of few-shot adapters for each kind of memory, chosen on validation images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.adapters.choosing import choose_for_memories
from data_prep.adapters.sources import usable_adapters
from data_prep.core.errors import UserError
from data_prep.embedding.pair import Queries
from data_prep.memory.memories import Memories
from data_prep.settings import Recipe


def choose_adapters(
    recipe: Recipe, memories: Sequence[Memories], xq: Queries, truths: np.ndarray, least: int
) -> dict[str, dict[str, float]]:
    """Chooses the hyperparameters of the adapters that can be fitted to one kind of memory.

    Args:
        recipe: ``eval.adapters`` and ``eval.candidates``, cache and accelerator.
        memories: Of the validation classes, one for each seed.
        xq: Unit vectors of the validation images, shape ``[n, d]``.
        truths: Their labels, shape ``[n]``.
        least: Number of images below which the papers' values are used.

    Returns:
        dict: The hyperparameters of each adapter, by its name.

    Raises:
        UserError: Candidates are to come from an adapter that cannot be fitted.
    """
    names, wanted = usable_adapters(recipe.eval.fitted_adapters, memories[0]), recipe.eval.candidates
    if memories[0].images is not None and wanted in recipe.eval.fitted_adapters and wanted not in names:
        raise UserError(f"eval.candidates={wanted}: it cannot be fitted to this memory (the log says why)")
    cache, accelerator = Path(recipe.cache), recipe.trainer.accelerator
    return choose_for_memories(names, memories, xq, truths, cache, accelerator, least)
