"""``python -m rar_train.fit recipe=NAME [key.sub=value …]``: prepares missing data and trains.

    python -m rar_train.fit recipe=ranker_lora
    python -m rar_train.fit recipe=ranker_lora data.name=folder data.root=photographs out=runs/mine
    python -m rar_train.fit recipe=ranker_lora ranker.lora.rank=8 --print

NAME is a recipe of the package or the path of a YAML file. A run that was killed resumes when the command is given
again. --print shows the resolved recipe and does nothing else; --debug shows tracebacks.

``python -m data_prep.recipes`` lists the recipes, ``python -m data_prep.keys [WORD]`` the settings with default and
meaning. ``python -m rar_train.doctor recipe=NAME`` says whether a recipe can run here.
"""

from __future__ import annotations

import logging
import shlex
import sys

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command
from data_prep.core.ranks import is_first_process
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe, recipe_yaml
from data_prep.settings.notes import embedded_model_note
from rar_train.engine.wandb_mode import check_tracking

log = logging.getLogger(__name__)


def fit(recipe: Recipe) -> None:
    """Runs the recipe's task, with what to know about its figures before and after, and the next commands."""
    tasks = {"ranker": _train_ranker, "retriever": _train_retriever, "projector": _train_projector}
    tasks |= {"nano_clip": _train_nano_clip, "nano_mllm": _train_nano_mllm}
    check_tracking(recipe.tracking)
    _log_note(recipe)
    tasks[recipe.task](recipe)
    _log_note(recipe)
    for line in _next_steps(recipe) if is_first_process() else ():
        log.info("next: %s", line)


def _log_note(recipe: Recipe) -> None:
    note = embedded_model_note(recipe)
    if note and is_first_process():
        log.warning("%s", note)


def _next_steps(recipe: Recipe) -> list[str]:
    """Lists the commands that use what the task has trained."""
    run = shlex.quote(recipe.out)
    evaluate, label = f"python -m eval.run --ckpt {run}", f"python -m eval.predict --ckpt {run} IMAGES"
    settings = [f"data.name={recipe.data.name}", *([f"data.root={recipe.data.root}"] if recipe.data.root else [])]
    tune = f"python -m rar_train.fit recipe=ranker_lora {shlex.join(settings)}"
    retriever = f"{tune} {shlex.quote(f'retriever.model=local-dir:{recipe.out}/model')}"
    ranker = f"{tune} {shlex.quote(f'ranker.model={recipe.out}/model')}"
    if recipe.task == "retriever" and recipe.retriever.tuning.loss == "cross_entropy":
        return [f"python -m eval.run --ckpt RUN_OF_A_RANKER {shlex.quote(f'eval.clip_lora={recipe.out}')}"]
    return {
        "ranker": [evaluate, label],
        "retriever": [evaluate, retriever],
        "projector": [ranker],
        "nano_clip": [retriever],
        "nano_mllm": [ranker],
    }[recipe.task]


def _train_ranker(recipe: Recipe) -> None:
    from rar_train.ranker.train import train_ranker

    train_ranker(recipe)


def _train_retriever(recipe: Recipe) -> None:
    if recipe.retriever.tuning.loss == "cross_entropy":
        from rar_train.retriever.draws import train_draws

        train_draws(recipe)
    else:
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
    parser = CommandParser("rar_train.fit")
    parser.add_argument("--print", action="store_true")
    parser.add_settings()
    args = parser.parse_args(arguments)
    recipe = load_recipe(args.settings)
    if args.print:
        print(recipe_yaml(recipe), end="")
    else:
        announce(f"fit: {recipe.task} into {recipe.out}")
        fit(recipe)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
