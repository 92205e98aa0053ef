"""``python -m data_prep.build recipe=NAME [key.sub=value …]``: makes a recipe's ranking examples.

    python -m data_prep.build recipe=ranker_lora
    python -m data_prep.build recipe=ranker_lora data.name=folder data.root=photographs mining.k=7

Every stage is kept in the recipe's cache under a name made of what it depends on, so a second call
makes nothing and a changed setting makes only what it touches. A report of the data is written
beside the examples; the command prints where. ``trainer.devices`` and ``trainer.num_nodes`` say
how many processes embed and search; with several machines the command runs on each, and they share the cache.
"""

from __future__ import annotations

import logging
import sys

from data_prep.core.command import run_command
from data_prep.settings.loading import load_recipe

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Reads the command line, builds and reports."""
    recipe = load_recipe(arguments)

    from data_prep.mining.pipeline import build
    from data_prep.mining.report import report_on

    for folder in build(recipe):
        log.info("made: %s", folder)
        log.info("report: %s", report_on(folder, recipe))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
