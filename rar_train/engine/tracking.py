"""Where a run's figures go: CSV always, Weights & Biases and TensorBoard by setting.

In Weights & Biases a fit is one run, however often it is resumed, and the head of a group; each evaluation of it is a
run of its own in that group (``eval/report/tracking.py``).
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

# Where the user wants what wandb keeps for uploading; by default it lies beside the offline run that needs it.
_DATA_DIR = os.environ.get("WANDB_DATA_DIR")


def run_id(folder: Path) -> str:
    """The tracker's run id, made once and kept in the run's folder, so that a resumed run goes on."""
    kept = folder / "wandb_id.txt"
    found = kept.read_bytes().decode(errors="replace").strip() if kept.exists() else ""
    if re.fullmatch("[0-9a-f]{8}", found):
        return found
    if found:
        log.warning("tracking: %s is damaged; the run goes on under another id", kept)
    made = secrets.token_hex(4)
    write_text(kept, made)
    return made


def wandb_settings(recipe: Recipe, folder: Path, job: str) -> dict:
    """What every run in Weights & Biases is begun with; also keeps wandb's own notices off the console.

    Args:
        recipe: Names tracker, project and entity.
        folder: The fit's folder, whose ``wandb`` holds all runs of its group.
        job: ``fit`` or ``evaluation``.

    Returns:
        dict: Arguments of ``wandb.init``, beside ``dir``.
    """
    import wandb  # slow

    args = recipe.tracking
    os.environ["WANDB_DATA_DIR"] = _DATA_DIR or str((folder / "wandb" / "data").resolve())
    wandb.setup(wandb.Settings(quiet=True, show_info=False, show_warnings=wandb_mode(args) == "online"))
    about = {"project": args.project, "entity": args.entity, "mode": wandb_mode(args)}
    return about | {"group": run_id(folder), "job_type": job}


def close_run(run: wandb.Run) -> None:
    """Ends a run, and says where it is."""
    where = run.url or f"kept offline; to upload it: wandb sync {run.settings.sync_dir}"
    run.finish()
    log.info("tracking: %s", where)


def make_loggers(recipe: Recipe, start_step: int, metadata: dict | None = None) -> list[Logger]:
    """The recipe's loggers.

    Args:
        recipe: Names tracker, project and folder.
        start_step: Where this stretch of the run begins; each stretch has its own CSV file,
            ``log/from-step-N/metrics.csv``.
        metadata: Noted beside the resolved recipe, such as the counts of trainable parameters.
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


def finish_tracking(loggers: Sequence[Logger], folder: Path) -> None:
    """Puts the adapter, and it alone, into Weights & Biases as an artifact, and ends the run there."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            artifact = wandb.Artifact(f"adapter-{logger.version}", type="model")
            artifact.add_dir(str(folder), policy="immutable")  # uploaded from where it lies, not from a copy
            logger.experiment.log_artifact(artifact)
            close_run(logger.experiment)


@dataclass(frozen=True)
class RankedExample:
    """A ranking to look at.

    Attributes:
        image: The picture.
        example: Its candidates in the order shown.
        order: The candidates' positions, best first.
        mode: How they were ranked.
        reply: What the model wrote, where it wrote.
    """

    image: Image.Image
    example: RankingExample
    order: tuple[int, ...]
    mode: str
    reply: str = ""

    @property
    def hit(self) -> bool:
        """Whether the truth is first."""
        return self.order[0] == self.example.truth

    @property
    def names(self) -> list[str]:
        """The candidates' names, best first."""
        return [self.example.candidates[place].name for place in self.order]
