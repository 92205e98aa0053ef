"""Metric logging: CSV always, Weights & Biases and TensorBoard by setting.

In Weights & Biases a fit is one run, however often it is resumed, and gives its id to a group; each evaluation of the
fit is a separate run in that group (``eval/recognition/tracking.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from data_prep.core.records import RankingExample
from data_prep.settings import Recipe
from rar_train.engine.wandb_mode import wandb_mode
from rar_train.engine.wandb_runs import close_run, run_id, wandb_settings


def make_loggers(recipe: Recipe, start_step: int, metadata: dict | None = None) -> list[Logger]:
    """Makes the recipe's loggers.

    Args:
        recipe: Gives tracker, project and folder.
        start_step: First step since the run was started or resumed; each part has its own CSV file,
            ``log/from-step-N/metrics.csv``.
        metadata: Logged in addition to the resolved recipe, such as the counts of trainable parameters.
    """
    out = Path(recipe.out)
    loggers: list[Logger] = [CSVLogger(out, name="log", version=f"from-step-{start_step:06d}")]
    if recipe.tracking.tensorboard:
        loggers.append(TensorBoardLogger(out, name="tensorboard", version="", default_hp_metric=False))
    if wandb_mode(recipe.tracking) != "disabled":
        loggers.append(
            WandbLogger(
                name=out.name,
                save_dir=out,
                id=run_id(out),
                config=asdict(recipe) | (metadata or {}),
                **wandb_settings(recipe, out, "fit"),
            )
        )
    return loggers


COLUMNS = ("picture", "truth", "ranked", "first is right", "mode", "reply")


def show_rankings(loggers: Sequence[Logger], ranked: Sequence[RankedExample], step: int) -> None:
    """Logs images with their rankings: a table in Weights & Biases, an image each in TensorBoard.

    Args:
        loggers: The run's loggers.
        ranked: Rankings of a validation.
        step: Optimiser steps so far.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb  # slow

            rows = [[wandb.Image(r.image), r.true_name, "; ".join(r.names), r.hit, r.mode, r.reply] for r in ranked]
            logger.log_table("val/rankings", columns=list(COLUMNS), data=rows, step=step)
        elif isinstance(logger, TensorBoardLogger):
            for index, ranking in enumerate(ranked):
                tag = f"rankings/{index}-{ranking.mode}"
                logger.experiment.add_image(tag, np.asarray(ranking.image), step, dataformats="HWC")
                text = f"truth: {ranking.true_name}  \nranked: {'; '.join(ranking.names)}"
                logger.experiment.add_text(tag, text, step)


def finish_tracking(loggers: Sequence[Logger], folder: Path) -> None:
    """Logs the adapter, and nothing else, to Weights & Biases as an artifact, and finishes the run there."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            artifact = wandb.Artifact(f"adapter-{logger.version}", type="model")
            artifact.add_dir(str(folder), policy="immutable")  # uploaded from this folder, not from a copy
            logger.experiment.log_artifact(artifact)
            close_run(logger.experiment)


@dataclass(frozen=True)
class RankedExample:
    """A ranking that is logged for inspection.

    Attributes:
        image: The query image.
        example: Its candidates in the order shown.
        order: The candidates' positions, best first.
        mode: The ranking mode.
        reply: The model's text, in modes that generate.
    """

    image: Image.Image
    example: RankingExample
    order: tuple[int, ...]
    mode: str
    reply: str = ""

    @property
    def hit(self) -> bool:
        """Whether the true class is first."""
        return self.order[0] == self.example.truth

    @property
    def true_name(self) -> str:
        """The true class's name."""
        return self.example.candidates[self.example.truth].name

    @property
    def names(self) -> list[str]:
        """The candidates' names, best first."""
        return [self.example.candidates[position].name for position in self.order]
