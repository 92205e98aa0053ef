"""Settings of optimiser, Trainer and tracking."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.settings.checks import bounded, check, one_of


@dataclass
class OptimArgs:
    """The optimiser."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    """Share of the steps that warm up."""
    epochs: int = 1
    batch_size: int = 16
    """Examples per process and forward pass."""
    accumulate: int = 1
    """Forward passes per step."""
    max_steps: int = -1
    """Stops early after so many optimiser steps; -1: after the epochs."""

    def __post_init__(self) -> None:
        least = {"lr": 0, "weight_decay": 0, "warmup": 0, "epochs": 1, "batch_size": 1, "accumulate": 1}
        bounded("optim", self, least, {"warmup": 1})
        check(self.max_steps == -1 or self.max_steps >= 1, f"optim.max_steps={self.max_steps}: at least 1, or -1")


@dataclass
class TrainerArgs:
    """Lightning's Trainer."""

    strategy: str = "auto"
    """``auto``, ``ddp``, or ``deepspeed_stage_1``, ``deepspeed_stage_2``; also on CPU processes."""
    accelerator: str = "auto"
    devices: int = 1
    workers: int = 0
    """Processes beside each device's that read examples and prepare batches."""
    num_nodes: int = 1
    precision: str = "32-true"
    grad_clip: float = 1.0
    log_every: int = 10
    """Steps."""
    checkpoint_every: int = 50
    """Steps between checkpoints, and between validations."""
    validation_images: int = 200
    """Development examples that a validation ranks."""
    resume: bool = True
    """Goes on from the run folder's last checkpoint; false starts the run anew."""

    def __post_init__(self) -> None:
        counts = ("devices", "num_nodes", "log_every", "checkpoint_every", "validation_images")
        bounded("trainer", self, dict.fromkeys(counts, 1) | {"grad_clip": 0, "workers": 0})
        one_of("trainer.precision", self.precision, ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true"))
        one_of(
            "trainer.strategy",
            self.strategy,
            ("auto", "ddp", "deepspeed_stage_1", "deepspeed_stage_2"),
        )


@dataclass
class TrackingArgs:
    """Weights & Biases; CSV is always written beside it."""

    wandb: str = "offline"
    """``offline``, ``online`` or ``disabled``."""
    project: str = "rar"
    entity: str | None = None

    def __post_init__(self) -> None:
        one_of("tracking.wandb", self.wandb, ("offline", "online", "disabled"))
