"""The kind of device that a command runs on."""

from __future__ import annotations

import torch

from data_prep.core.errors import UserError
from data_prep.core.ranks import local_rank
from data_prep.settings import TrainerArgs


def resolve_accelerator(args: TrainerArgs) -> str:
    """``cpu`` or ``cuda``: what the recipe asks for, or what the machine has."""
    if args.accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = {"gpu": "cuda"}.get(args.accelerator, args.accelerator)
    if kind not in ("cpu", "cuda"):
        raise UserError(f"trainer.accelerator={args.accelerator}: must be auto, cpu or gpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator=gpu, but torch sees no GPU here; use auto or cpu")
    return kind


def own_gpu() -> int:
    """This process's GPU among those that it sees."""
    return local_rank() % max(1, torch.cuda.device_count())
