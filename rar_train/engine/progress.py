"""The progress bar of a training."""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback, TQDMProgressBar

from data_prep.core.progress import is_interactive
from data_prep.settings import TrainerArgs


def progress_bar(args: TrainerArgs) -> list[Callback]:
    """The progress bar with loss and time left, where it is wanted."""
    wanted = {"on": True, "off": False, "auto": is_interactive()}[args.progress]
    return [TQDMProgressBar(refresh_rate=args.log_every)] if wanted else []
