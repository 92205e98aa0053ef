"""What a run looks like while it goes: throughput, rankings with pictures, the table of parameters."""

from __future__ import annotations

import time

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback

from data_prep.settings import Recipe
from rar_train.engine.tracking import show_rankings
from rar_train.ranker.collate import RankingBatch


def table_lines(rows: list[tuple[str, int, int]]) -> list[str]:
    """The table of parameters as text; see ``adapter.parameter_table``."""
    shares = [f"{100 * trainable / total:.2f} %" if total else "" for _, trainable, total in rows]
    lines = [
        f"{part:<16}{trainable:>16,}{total:>18,}{share:>10}"
        for (part, trainable, total), share in zip(rows, shares, strict=True)
    ]
    return [f"{'parameters':<16}{'trainable':>16}{'all':>18}{'share':>10}", *lines]


# Dense matrix products in 16 bits, by NVIDIA's data sheet: the H200 has the H100's processor. Lightning's table does
# not know the name that its driver gives, and has the rate of sparse matrices, which is twice as high.
_H200_DENSE = 989.4e12


def peak_flops(device: torch.device, precision: str) -> float | None:
    """A GPU's multiplications and additions of dense matrices per second in a precision, where they are known."""
    if device.type != "cuda":
        return None
    if "16" in precision and "H200" in torch.cuda.get_device_name(device):
        return _H200_DENSE
    kind = torch.bfloat16 if "bf16" in precision else torch.float16 if "16" in precision else torch.float32
    return get_available_flops(device, kind)


class Monitor(Callback):
    """Logs pictures, tokens and (on GPUs) the share of the peak per second, every ``trainer.log_every`` steps.

    The share (MFU) counts two operations per parameter and token forward, two for gradients of
    activations, and two more for trained parameters; what gradient checkpointing computes again is left out.

    Args:
        recipe: The run's recipe.
        parameters: Trainable and all parameters.
    """

    def __init__(self, recipe: Recipe, parameters: tuple[int, int]):
        self.recipe = recipe
        trainable, total = parameters
        self.flops_per_token = 4 * total + 2 * trainable
        self.logged = 0
        self._forget()

    def _forget(self) -> None:
        self.images = self.tokens = 0
        self.since: float | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: dict, batch: RankingBatch, batch_idx: int
    ) -> None:
        """Counts a batch; the first after a pause only starts the clock."""
        if self.since is None:
            self.since = time.perf_counter()
            return
        self.images += len(batch.examples)
        self.tokens += batch.tokens
        step = trainer.global_step
        if step == self.logged or step % self.recipe.trainer.log_every:
            return
        self.logged = step
        seconds = time.perf_counter() - self.since
        rates = {"images_per_s": self.images, "tokens_per_s": self.tokens}
        metrics = {f"perf/{name}": count * trainer.world_size / seconds for name, count in rates.items()}
        peak = peak_flops(module.device, self.recipe.trainer.precision)
        if peak is not None:
            metrics["perf/mfu"] = self.tokens * self.flops_per_token / seconds / peak
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step - 1)
        self._forget()
        self.since = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A validation is a pause."""
        self._forget()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Shows what was ranked."""
        if trainer.is_global_zero and module.ranked:
            show_rankings(trainer.loggers, module.ranked, trainer.global_step)
