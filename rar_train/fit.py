"""``python -m rar_train.fit recipe=NAME [key.sub=value …]``: prepares missing data and trains.

    python -m rar_train.fit recipe=ranker_lora
    python -m rar_train.fit recipe=ranker_lora data.name=folder data.root=photographs out=runs/mine
    python -m rar_train.fit recipe=ranker_lora ranker.lora.rank=8 --print

NAME is a recipe of the package or the path of a YAML file. A run that was killed resumes when the command is given
again. --print shows the resolved recipe and does nothing else; --debug shows tracebacks.
"""

from __future__ import annotations

import sys

from data_prep.core.command import run_command
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe, recipe_yaml
from rar_train.engine.wandb_mode import check_tracking


def fit(recipe: Recipe) -> None:
    """Runs the recipe's task."""
    tasks = {"ranker": _train_ranker, "retriever": _train_retriever, "projector": _train_projector}
    tasks |= {"nano_clip": _train_nano_clip, "nano_mllm": _train_nano_mllm}
    check_tracking(recipe.tracking)
    tasks[recipe.task](recipe)


def _train_ranker(recipe: Recipe) -> None:
    from rar_train.ranker.train import train_ranker

    train_ranker(recipe)


def _train_retriever(recipe: Recipe) -> None:
    from rar_train.retriever.train import train_retriever

    train_retriever(recipe)


def _train_projector(recipe: Recipe) -> None:
    from rar_train.projector.train import train_projector

    train_projector(recipe)


def _train_nano_clip(recipe: Recipe) -> None:
    from rar_train.nano.clip import train_nano_clip

    train_nano_clip(recipe)


def _train_nano_mllm(recipe: Recipe) -> None:
    from rar_train.nano.mllm import train_nano_mllm

    train_nano_mllm(recipe)


def main(arguments: list[str]) -> None:
    """Reads the command line and runs the recipe."""
    recipe = load_recipe([argument for argument in arguments if argument != "--print"])
    if "--print" in arguments:
        print(recipe_yaml(recipe), end="")
    else:
        fit(recipe)


def console() -> None:
    """Runs the command as a console script."""
    sys.exit(run_command(main, __doc__))


if __name__ == "__main__":
    console()
