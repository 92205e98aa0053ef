"""Monitoring of a running training: throughput, example rankings, and the table of parameters."""

from __future__ import annotations

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback

from data_prep.settings import Recipe
from rar_train.engine.progress import TrainingClock
from rar_train.engine.tracking import show_rankings
from rar_train.ranker.collate import RankingBatch


def format_parameter_table(rows: list[tuple[str, int, int]]) -> list[str]:
    """Formats the table of parameters; see ``rar_train.models.lora.parameter_table``."""
    shares = [f"{100 * trainable / total:.2f} %" if total else "" for _, trainable, total in rows]
    lines = [
        f"{part:<16}{trainable:>16,}{total:>18,}{share:>10}"
        for (part, trainable, total), share in zip(rows, shares, strict=True)
    ]
    return [f"{'parameters':<16}{'trainable':>16}{'all':>18}{'share':>10}", *lines]


# Dense 16-bit matrix products, from NVIDIA's data sheet: the H200 has the H100's processor. Lightning's table lacks the
# name that the H200's driver reports, and lists the rate of sparse matrices, which is twice as high.
_H200_DENSE = 989.4e12


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Returns a GPU's peak FLOP/s for dense matrix products in a precision, or None where it is unknown."""
    if device.type != "cuda":
        return None
    if "16" in precision and "H200" in torch.cuda.get_device_name(device):
        return _H200_DENSE
    dtype = torch.bfloat16 if "bf16" in precision else torch.float16 if "16" in precision else torch.float32
    return get_available_flops(device, dtype)


class Monitor(Callback):
    """Logs images and tokens per second and (on GPUs) the MFU, every ``trainer.log_every`` steps.

    The model FLOPs utilization counts two operations per parameter and token in the forward pass, two for gradients of
    activations, and two more for trained parameters; recomputation by gradient checkpointing is not counted.

    Args:
        recipe: The run's recipe.
        parameters: Number of trainable and of all parameters.
    """

    def __init__(self, recipe: Recipe, parameters: tuple[int, int]):
        self.recipe = recipe
        trainable, total = parameters
        self.flops_per_token = 4 * total + 2 * trainable
        self.logged = 0
        self.clock: TrainingClock | None = None

    def _reset(self) -> None:
        self.images = self.tokens = 0
        self.clock = TrainingClock()
        self.clock.start()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_) -> None:
        """Starts the clock after a validation."""
        if self.clock:
            self.clock.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: dict, batch: RankingBatch, batch_idx: int
    ) -> None:
        """Counts a batch and logs the rates when due; the first batch, which warms up, only starts the clock."""
        if self.clock is None:
            self._reset()
            return
        self.images += len(batch.examples)
        self.tokens += batch.tokens
        step = trainer.global_step
        if step == self.logged or step % self.recipe.trainer.log_every:
            return
        self.logged = step
        seconds = self.clock.seconds
        rates = {"images_per_s": self.images, "tokens_per_s": self.tokens}
        metrics = {f"perf/{name}": count * trainer.world_size / seconds for name, count in rates.items()}
        peak = peak_flops(module.device, self.recipe.trainer.precision)
        if peak is not None:
            metrics["perf/mfu"] = self.tokens * self.flops_per_token / seconds / peak
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step - 1)
        self._reset()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stops the clock, since a validation is a pause."""
        if self.clock:
            self.clock.stop()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Sends the validation's rankings to the trackers."""
        if trainer.is_global_zero and module.ranked:
            show_rankings(trainer.loggers, module.ranked, trainer.global_step)
