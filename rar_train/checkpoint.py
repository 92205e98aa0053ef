"""Checkpoints: the trainer's state and the adapter beside it, whole or absent."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from data_prep.settings import Recipe
from rar_train.adapter import save_adapter

log = logging.getLogger(__name__)

KEPT = 2


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a run's ``checkpoints`` folder, or None."""
    found = sorted(folder.glob("step-*.ckpt"))
    return found[-1] if found else None


def remove(path: Path) -> None:
    """Removes a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


class Checkpoints(Callback):
    """Saves every so many steps, and keeps the last two.

    A checkpoint is ``step-N.ckpt`` (a file, or DeepSpeed's folder) with ``step-N.adapter``, the
    adapter in peft's format. Both are written under a temporary name and renamed.

    Args:
        recipe: The run's recipe.
        facts: For the adapter's manifest.
    """

    def __init__(self, recipe: Recipe, facts: dict):
        self.recipe, self.facts = recipe, facts
        self.folder = Path(recipe.out) / "checkpoints"
        self.saved = -1

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The step that a run resumes from is saved already."""
        self.saved = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_) -> None:
        """Counts the data position on and saves where a step that is due has ended."""
        trainer.datamodule.position.batches += 1
        step = trainer.global_step
        if step == self.saved or step == 0 or step % self.recipe.trainer.checkpoint_every:
            return
        self.saved = step
        self.save(trainer, module, step)

    def save(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        """Saves on all processes; the first one renames and tidies up."""
        final = self.folder / f"step-{step:08d}.ckpt"
        part = self.folder / f".step-{step:08d}.ckpt.part"
        trainer.save_checkpoint(part)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            save_adapter(module.mllm, final.with_suffix(".adapter"), self.recipe, self.facts | {"step": step})
            if final.exists():
                remove(final)
            os.replace(part, final)
            for old in sorted(self.folder.glob("step-*.ckpt"))[:-KEPT]:
                remove(old)
                shutil.rmtree(old.with_suffix(".adapter"), ignore_errors=True)
        trainer.strategy.barrier()
