"""``python -m data_prep.recipes [NAME]``: lists the recipes of the package, or shows one.

    python -m data_prep.recipes
    python -m data_prep.recipes ranker_lora

The header of a recipe says what it does, how to launch it, what it needs and what to expect. To change more than a few
settings, save one as YAML, edit it, and give recipe=PATH.yaml.
"""

from __future__ import annotations

import shutil
import sys
from textwrap import fill

from data_prep.arguments.completion import complete_recipe
from data_prep.arguments.parser import CommandParser
from data_prep.core.command import run_command
from data_prep.core.paths import RECIPES
from data_prep.settings.loading import recipe_names, recipe_path


def recipe_summary(name: str) -> str:
    """Returns the first sentence of a recipe's header."""
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = [line.removeprefix("#").strip() for line in lines[: lines.index("#")]]
    return " ".join(header)


def main(arguments: list[str]) -> None:
    """Reads the command line and prints the list, or the recipe."""
    parser = CommandParser("data_prep.recipes")
    parser.add_argument("name", nargs="?").completer = complete_recipe  # type: ignore[attr-defined]
    name = parser.parse_args(arguments).name
    if name:
        print(recipe_path(name.removeprefix("recipe=")).read_text(encoding="utf-8"), end="")
        return
    width = min(shutil.get_terminal_size().columns, 100)
    for recipe in recipe_names():
        print(recipe)
        print(fill(recipe_summary(recipe), width, initial_indent="    ", subsequent_indent="    "))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
