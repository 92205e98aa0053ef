"""Checkpoints: the trainer's state and the adapter beside it, whole or absent; the best one; stopping early."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError

from data_prep.errors import Interrupted, UserError
from data_prep.files import write_json
from data_prep.settings import Recipe
from rar_train.adapter import save_adapter
from rar_train.strategies import gathered

log = logging.getLogger(__name__)

KEPT = 2


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a run's ``checkpoints`` folder, or None."""
    found = sorted(folder.glob("step-*.ckpt"))
    return found[-1] if found else None


def steps_done(checkpoint: Path | None) -> int:
    """Optimiser steps before a checkpoint; 0 without one."""
    return int(checkpoint.stem.split("-")[1]) if checkpoint else 0


def fit_from(
    checkpoint: Path | None, trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule
) -> None:
    """Trains, from a checkpoint on where there is one.

    Raises:
        Interrupted: By Ctrl-C; says how to go on.
    """
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        raise Interrupted(
            f"interrupted at step {trainer.global_step}; the same command goes on from the last checkpoint"
        ) from None


def checkpoint_path(folder: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return folder / f"step-{step:08d}.ckpt"


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def validation_figures(trainer: L.Trainer) -> dict[str, float]:
    """What the last validation measured, by name without ``val/``."""
    found = trainer.callback_metrics.items()
    return {key.removeprefix("val/"): round(float(value), 4) for key, value in found if key.startswith("val/")}


@contextmanager
def saving(what: Path, part: Path) -> Iterator[None]:
    """Turns a write that fails into an error that says so, and takes away what it left.

    Raises:
        UserError: The disk is full, or refuses.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch's writer
        remove(part)
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{what}: could not be written ({reason}); the checkpoints before it stand. Make room "
            f"({shutil.disk_usage(what.parent).free / 1e9:.1f} GB are free), and give the same command again to go on"
        ) from None


class Checkpoints(Callback):
    """Saves after every validation, keeps the last two and the best, and stops where nothing improves.

    A checkpoint is ``step-N.ckpt`` (a file, or DeepSpeed's folder) with ``step-N.adapter``, the
    adapter in peft's format. Both are written under a temporary name and renamed. ``best.json`` in the run's folder
    names the best step.

    Args:
        recipe: The run's recipe.
        facts: For the adapter's manifest.
    """

    def __init__(self, recipe: Recipe, facts: dict):
        self.recipe, self.facts = recipe, facts
        self.folder = Path(recipe.out) / "checkpoints"
        self.metric = f"val/{recipe.ranker.mode}"
        self.best_step, self.best_value, self.stale = -1, -1.0, 0

    @property
    def best(self) -> Path | None:
        """The checkpoint that validated best, or None where none was validated."""
        return checkpoint_path(self.folder, self.best_step) if self.best_step >= 0 else None

    def state_dict(self) -> dict:
        """The best so far, for the checkpoint."""
        return {"best_step": self.best_step, "best_value": self.best_value, "stale": self.stale}

    def load_state_dict(self, state: dict) -> None:
        """Goes back to a checkpoint's best."""
        self.best_step, self.best_value, self.stale = state["best_step"], state["best_value"], state["stale"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A run that had stopped early stays stopped."""
        self._stop_if_stale(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_) -> None:
        """Counts the data position on."""
        trainer.datamodule.position.batches += 1

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Notes whether this is the best step so far, saves it, and stops where it is time."""
        step = trainer.global_step
        value = trainer.callback_metrics.get(self.metric)
        if value is not None:
            better = float(value) > self.best_value
            self.stale = 0 if better else self.stale + 1
            if better:
                self.best_step, self.best_value = step, float(value)
        self.save(trainer, module, step)
        self._stop_if_stale(trainer)

    def _stop_if_stale(self, trainer: L.Trainer) -> None:
        patience = self.recipe.trainer.patience
        if patience and self.stale >= patience:
            log.info(
                "training: stopped at step %d, since %s has not risen above %.4f (step %d) in %d validations",
                trainer.global_step, self.metric, self.best_value, self.best_step, self.stale,
            )  # fmt: skip
            trainer.should_stop = True

    def save(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        """Saves on all processes; the first one renames and tidies up."""
        final = checkpoint_path(self.folder, step)
        part = self.folder / f".step-{step:08d}.ckpt.part"
        self.folder.mkdir(parents=True, exist_ok=True)
        with saving(final, part):
            trainer.save_checkpoint(part)
        trainer.strategy.barrier()
        with gathered(module), saving(final.with_suffix(".adapter"), part):
            if trainer.is_global_zero:
                facts = self.facts | {"step": step, "validation": validation_figures(trainer)}
                save_adapter(module.mllm, final.with_suffix(".adapter"), self.recipe, facts)
        if trainer.is_global_zero:
            remove(final)
            os.replace(part, final)
            if self.best_step >= 0:
                note = {"step": self.best_step, "metric": self.metric, "value": self.best_value}
                write_json(self.folder.parent / "best.json", note)
            self._tidy()
        trainer.strategy.barrier()

    def _tidy(self) -> None:
        for old in sorted(self.folder.glob("step-*.ckpt"))[:-KEPT]:
            if old != self.best:
                remove(old)
                remove(old.with_suffix(".adapter"))
