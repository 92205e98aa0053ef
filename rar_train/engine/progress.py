"""Progress of a training: a bar at a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, TQDMProgressBar

from data_prep.core.progress import is_interactive
from data_prep.settings import TrainerArgs

log = logging.getLogger(__name__)

LOG_SECONDS = 30


def progress_bar(args: TrainerArgs) -> list[Callback]:
    """Returns the progress bar with loss and time left, or no callback where ``trainer.progress`` turns it off."""
    enabled = {"on": True, "off": False, "auto": is_interactive()}[args.progress]
    return [TQDMProgressBar(refresh_rate=args.log_every)] if enabled else []


def validation_metrics(trainer: L.Trainer) -> dict[str, float]:
    """Returns the metrics of the last validation, by name without ``val/``."""
    metrics = trainer.callback_metrics.items()
    return {key.removeprefix("val/"): round(float(value), 6) for key, value in metrics if key.startswith("val/")}


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Formats the metrics of a validation for a log line: the loss, and shares of the examples in per cent."""
    texts = [
        f"{name} {value:.4f}" if name == "loss" else f"{name} {100 * value:.1f} %" for name, value in metrics.items()
    ]
    return ", ".join(texts) or "not validated"


class TrainingClock:
    """Time spent on training, without the validations in between."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Starts the clock, or does nothing where it runs."""
        self._since = self._since or time.monotonic()

    def stop(self) -> None:
        """Stops the clock."""
        self._seconds, self._since = self.seconds, None

    @property
    def seconds(self) -> float:
        """Seconds in which the clock has run."""
        return self._seconds + (time.monotonic() - self._since if self._since else 0.0)


class TrainingLog(Callback):
    """Log lines of a training without a progress bar: every 30 seconds, and the metrics of each validation.

    A line has the step, the last batch's loss, the speed between validations, and the time left, validations included.

    Args:
        count: Counts the examples of a batch.
    """

    def __init__(self, count: Callable[[Any], int]):
        self.count = count
        self.examples, self.clock = 0, TrainingClock()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Notes the step and time of the start."""
        self.first_step, self.started = trainer.global_step, time.monotonic()
        self.logged = self.started

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_) -> None:
        """Starts the clock, at first and after a validation."""
        self.clock.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: dict, batch: Any, batch_idx: int
    ) -> None:
        """Counts a batch, and logs a line when one is due."""
        self.examples += self.count(batch) * trainer.world_size
        now, done = time.monotonic(), trainer.global_step - self.first_step
        if not trainer.is_global_zero or now - self.logged < LOG_SECONDS or not done:
            return
        self.logged = now
        left = timedelta(seconds=round((now - self.started) / done * (trainer.max_steps - trainer.global_step)))
        log.info(
            "training: step %d of %d, loss %.4f, %.1f examples/s, %s left",
            trainer.global_step, trainer.max_steps, trainer.callback_metrics["train/loss"].item(),
            self.examples / self.clock.seconds, left,
        )  # fmt: skip

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stops the clock."""
        self.clock.stop()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Logs the validation's metrics."""
        if trainer.is_global_zero:
            metrics = format_metrics(validation_metrics(trainer))
            log.info("training: step %d of %d, validation: %s", trainer.global_step, trainer.max_steps, metrics)
