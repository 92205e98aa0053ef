"""Runs in Weights & Biases: their id and group, which a fit and its evaluations share, and how they end."""

from __future__ import annotations

import logging
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.core.files import write_text
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
