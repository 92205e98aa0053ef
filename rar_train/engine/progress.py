"""The training progress bar."""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback, TQDMProgressBar

from data_prep.core.progress import is_interactive
from data_prep.settings import TrainerArgs


def progress_bar(args: TrainerArgs) -> list[Callback]:
    """Returns the progress bar with loss and time left, or no callback where ``trainer.progress`` turns it off."""
    enabled = {"on": True, "off": False, "auto": is_interactive()}[args.progress]
    return [TQDMProgressBar(refresh_rate=args.log_every)] if enabled else []
