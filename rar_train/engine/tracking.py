"""Metric logging: CSV always, Weights & Biases and TensorBoard by setting.

In Weights & Biases a fit is one run, however often it is resumed, and gives its id to a group; each evaluation of the
fit is a separate run in that group (``eval/recognition/tracking.py``).
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from data_prep.core.files import write_text
from data_prep.core.records import RankingExample
from data_prep.settings import Recipe
from rar_train.engine.wandb_mode import wandb_mode

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

# The user's folder for artifacts that wandb stages for upload; by default it is next to the offline run that needs it.
_DATA_DIR = os.environ.get("WANDB_DATA_DIR")


def run_id(folder: Path) -> str:
    """Returns the tracker's run id, made once and saved in the run's folder, so that a resumed run continues it."""
    path = folder / "wandb_id.txt"
    saved = path.read_bytes().decode(errors="replace").strip() if path.exists() else ""
    if re.fullmatch("[0-9a-f]{8}", saved):
        return saved
    if saved:
        log.warning("tracking: %s is damaged; the run continues under another id", path)
    identifier = secrets.token_hex(4)
    write_text(path, identifier)
    return identifier


def wandb_settings(recipe: Recipe, folder: Path, job: str) -> dict:
    """Returns the arguments of every run in Weights & Biases, and turns off wandb's notices on the console.

    Args:
        recipe: Gives tracker, project and entity.
        folder: The fit's folder, whose ``wandb`` subfolder contains all runs of its group.
        job: ``fit`` or ``evaluation``.

    Returns:
        dict: Arguments of ``wandb.init``, except ``dir``.
    """
    import wandb  # slow

    args = recipe.tracking
    os.environ["WANDB_DATA_DIR"] = _DATA_DIR or str((folder / "wandb" / "data").resolve())
    wandb.setup(wandb.Settings(quiet=True, show_info=False, show_warnings=wandb_mode(args) == "online"))
    settings = {"project": args.project, "entity": args.entity, "mode": wandb_mode(args)}
    return settings | {"group": run_id(folder), "job_type": job}


def close_run(run: wandb.Run) -> None:
    """Finishes a run and logs its address, or how to upload it."""
    where = run.url or f"kept offline; to upload it: wandb sync {run.settings.sync_dir}"
    run.finish()
    log.info("tracking: %s", where)


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
