"""``python -m data_prep.build recipe=NAME [key.sub=value …]``: builds a recipe's ranking examples.

    python -m data_prep.build recipe=ranker_lora
    python -m data_prep.build recipe=ranker_lora data.name=folder data.root=photographs mining.k=7

Every stage is kept in the recipe's cache under a name derived from what it depends on, so a second call
computes nothing, and a changed setting only the stages that it affects. A report on the examples is written
to the cache too; the command prints where. ``trainer.devices`` and ``trainer.num_nodes`` set how many
processes embed and search; with several machines, run the command on each, with a shared cache.
"""

from __future__ import annotations

import logging
import sys

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command
from data_prep.settings.loading import load_recipe

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Parses the command line, builds the examples and writes their reports."""
    parser = CommandParser("data_prep.build")
    parser.add_settings()
    recipe = load_recipe(parser.parse_args(arguments).settings)
    announce(f"data: examples into {recipe.cache}")

    from data_prep.mining.pipeline import build
    from data_prep.mining.report import write_report

    for folder in build(recipe):
        log.info("made: %s", folder)
        log.info("report: %s", write_report(folder, recipe))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
