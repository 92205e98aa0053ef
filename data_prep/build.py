"""``python -m data_prep.build recipe=NAME [key.sub=value …]``: makes a recipe's ranking examples.

Every stage is kept in the recipe's cache under a name made of what it depends on, so a second call
makes nothing and a changed setting makes only what it touches. ``trainer.devices`` and ``trainer.num_nodes`` say
how many processes embed; with several machines the command runs on each, and they share the cache.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from data_prep.command import run_command
from data_prep.datasets import read_dataset
from data_prep.encoder import load_encoder
from data_prep.memories import memories_of
from data_prep.mining import mine
from data_prep.recipe import load_recipe
from data_prep.settings import Recipe

log = logging.getLogger(__name__)


def build(recipe: Recipe) -> tuple[Path, Path]:
    """Makes what is missing of the ranking examples.

    Returns:
        tuple[Path, Path]: Shard folders of ``tuning`` and of ``development``. Development
        examples come from memories like those of the evaluation: the first shots and seed of it.
    """
    cache = Path(recipe.cache)
    encoder = load_encoder(recipe.retriever, recipe.trainer)  # first: a model that can't be had is known in seconds
    log.info("encoder: %s", encoder.id)
    dataset = read_dataset(recipe.data, cache, ("tuning", "development_memory", "development"))
    own = memories_of(recipe, encoder, dataset, "tuning", None, 0)
    tuning = mine(encoder, dataset, "tuning", own, True, recipe.retriever, recipe.mining, cache)
    shots, seed = recipe.eval.shots[0], recipe.eval.seeds[0]
    held = memories_of(recipe, encoder, dataset, "development_memory", shots, seed)
    development = mine(encoder, dataset, "development", held, False, recipe.retriever, recipe.mining, cache)
    return tuning, development


def main(arguments: list[str]) -> None:
    """Reads the command line and builds."""
    for folder in build(load_recipe(arguments)):
        log.info("made: %s", folder)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
