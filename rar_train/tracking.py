"""Where a run's figures go: CSV always, Weights & Biases and TensorBoard by setting."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from data_prep.files import write_text
from data_prep.settings import Recipe
from rar_train.validation import Ranked


def run_id(folder: Path) -> str:
    """The tracker's run id, made once and kept in the run's folder, so that a resumed run goes on."""
    kept = folder / "wandb_id.txt"
    if not kept.exists():
        write_text(kept, secrets.token_hex(4))
    return kept.read_text().strip()


def loggers_of(recipe: Recipe, start_step: int, facts: dict | None = None) -> list[Logger]:
    """The recipe's loggers.

    Args:
        recipe: Names tracker, project and folder.
        start_step: Where this stretch of the run begins; each stretch has its own CSV file,
            ``log/from-step-N/metrics.csv``.
        facts: Noted beside the resolved recipe, such as the counts of trainable parameters.
    """
    out = Path(recipe.out)
    loggers: list[Logger] = [CSVLogger(out, name="log", version=f"from-step-{start_step:06d}")]
    if recipe.tracking.tensorboard:
        loggers.append(TensorBoardLogger(out, name="tensorboard", version="", default_hp_metric=False))
    if recipe.tracking.wandb != "disabled":
        loggers.append(
            WandbLogger(
                name=out.name,
                save_dir=out,
                project=recipe.tracking.project,
                entity=recipe.tracking.entity,
                offline=recipe.tracking.wandb == "offline",
                id=run_id(out),
                resume="allow",
                config=asdict(recipe) | (facts or {}),
            )
        )
    return loggers


COLUMNS = ("picture", "truth", "ranked", "first is right", "mode", "reply")


def show_rankings(loggers: Sequence[Logger], ranked: Sequence[Ranked], step: int) -> None:
    """Shows pictures with their rankings: a table in Weights & Biases, an image each in TensorBoard.

    Args:
        loggers: The run's.
        ranked: What a validation ranked.
        step: Optimiser steps so far.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb  # slow

            rows = [
                [wandb.Image(one.image), one.example.candidates[one.example.truth].name, "; ".join(one.names), one.hit,
                 one.mode, one.reply]
                for one in ranked
            ]  # fmt: skip
            logger.log_table("val/rankings", columns=list(COLUMNS), data=rows, step=step)
        elif isinstance(logger, TensorBoardLogger):
            for number, one in enumerate(ranked):
                tag = f"rankings/{number}-{one.mode}"
                logger.experiment.add_image(tag, np.asarray(one.image), step, dataformats="HWC")
                truth = one.example.candidates[one.example.truth].name
                logger.experiment.add_text(tag, f"truth: {truth}  \nranked: {'; '.join(one.names)}", step)


def upload_adapter(loggers: Sequence[Logger], folder: Path) -> None:
    """Puts the adapter, and it alone, into Weights & Biases as an artifact."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            artifact = wandb.Artifact(f"adapter-{logger.version}", type="model")
            artifact.add_dir(str(folder))
            logger.experiment.log_artifact(artifact)
