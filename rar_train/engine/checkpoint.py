"""Checkpoint callbacks: a checkpoint after each validation, written atomically; with adapters, also the best one."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from data_prep.core.errors import Interrupted
from data_prep.core.files import leftover_parts, part_path, remove, write_json
from data_prep.core.saving import write_errors
from data_prep.settings import Recipe
from rar_train.engine.checkpoint_files import checkpoint_path, remove_old_checkpoints, write_checksums
from rar_train.engine.progress import validation_metrics
from rar_train.engine.strategies import gather_weights
from rar_train.models.lora import save_adapter

log = logging.getLogger(__name__)

KEEP_LAST = 2
"""Number of the newest checkpoints that are kept."""


def fit_from(
    checkpoint: Path | None, trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule
) -> None:
    """Trains, resuming from a checkpoint where one is given.

    Raises:
        Interrupted: Ctrl-C was pressed; the message says how to resume.
    """
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        raise Interrupted(
            f"interrupted at step {trainer.global_step}; the same command resumes from the last checkpoint"
        ) from None


class Checkpoints(Callback):
    """Saves a checkpoint after every validation, the last step's among them, and keeps the last two.

    ``checkpoint_files`` has their format.

    Args:
        recipe: The run's recipe.

    Attributes:
        validation: Metrics of the last validation. Checkpoints contain them, so that they are also known to a run that
            resumes from its last step.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.folder = Path(recipe.out) / "checkpoints"
        self.validation: dict[str, float] = {}

    def state_dict(self) -> dict:
        """Returns the last validation's metrics, for the checkpoint."""
        return {"validation": self.validation}

    def load_state_dict(self, state: dict) -> None:
        """Restores a checkpoint's metrics."""
        self.validation = state["validation"]

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_) -> None:
        """Advances the data position, and has the last step validated."""
        trainer.datamodule.position.batches += 1
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # Lightning validates before it stops for this reason; for max_steps it does not

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stores the metrics and saves a checkpoint."""
        self.validation = validation_metrics(trainer)
        self.save(trainer, module, trainer.global_step)

    @property
    def protected_steps(self) -> list[int]:
        """Steps that are kept in addition to the last two."""
        return []

    def save_extras(self, trainer: L.Trainer, module: L.LightningModule, final: Path) -> list[Path]:
        """Saves further files of a checkpoint next to it; called on all processes, of which the first one writes."""
        return []

    def save(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        """Saves on all processes; the first one writes the checksums, renames, and removes old checkpoints."""
        final = checkpoint_path(self.folder, step)
        part = trainer.strategy.broadcast(part_path(final))
        with write_errors(final, part):
            self.folder.mkdir(exist_ok=True)
            for leftover in leftover_parts(final) if trainer.is_global_zero else ():
                remove(leftover)
            trainer.save_checkpoint(part)
        trainer.strategy.barrier()
        with write_errors(final, part):
            extras = self.save_extras(trainer, module, final)
            if trainer.is_global_zero:
                needed = self.protected_steps if self.recipe.trainer.adapter == "best" else []
                write_checksums(final, part, extras, [earlier for earlier in needed if earlier != step])
                if final.is_dir():
                    remove(final)
                os.replace(part, final)
                remove_old_checkpoints(self.folder, step, KEEP_LAST, self.protected_steps)
        trainer.strategy.barrier()


class AdapterCheckpoints(Checkpoints):
    """Checkpoints that also save the adapter in peft's format, keep the best one, and stop early.

    The adapter is ``step-N.adapter``; ``best.json`` in the run's folder names the best step.

    Args:
        recipe: The run's recipe.
        metadata: Added to the adapter's manifest.
    """

    def __init__(self, recipe: Recipe, metadata: dict):
        super().__init__(recipe)
        self.metadata = metadata
        self.metric = f"val/{recipe.ranker.mode}"
        self.best_step, self.best_value, self.stale = -1, -1.0, 0

    @property
    def best(self) -> Path | None:
        """The checkpoint with the best validation, or None where none was validated."""
        return checkpoint_path(self.folder, self.best_step) if self.best_step >= 0 else None

    @property
    def protected_steps(self) -> list[int]:
        """The best step."""
        return [self.best_step] if self.best_step >= 0 else []

    def state_dict(self) -> dict:
        """Adds the best step so far."""
        best = {"best_step": self.best_step, "best_value": self.best_value, "stale": self.stale}
        return super().state_dict() | best

    def load_state_dict(self, state: dict) -> None:
        """Restores a checkpoint's best step."""
        super().load_state_dict(state)
        self.best_step, self.best_value, self.stale = state["best_step"], state["best_value"], state["stale"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stops a resumed run that was stopped early before."""
        self._stop_if_stale(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Updates the best step, saves a checkpoint, and stops where patience has run out."""
        value = trainer.callback_metrics.get(self.metric)
        if value is not None:
            better = float(value) > self.best_value
            self.stale = 0 if better else self.stale + 1
            if better:
                self.best_step, self.best_value = trainer.global_step, float(value)
        super().on_validation_end(trainer, module)
        self._stop_if_stale(trainer)

    def _stop_if_stale(self, trainer: L.Trainer) -> None:
        patience = self.recipe.trainer.patience
        if patience and self.stale >= patience:
            log.info(
                "training: stopped at step %d, since %s has not risen above %.4f (step %d) in %d validations",
                trainer.global_step, self.metric, self.best_value, self.best_step, self.stale,
            )  # fmt: skip
            trainer.should_stop = True

    def save_extras(self, trainer: L.Trainer, module: L.LightningModule, final: Path) -> list[Path]:
        """Saves the adapter and writes ``best.json``."""
        adapter = final.with_suffix(".adapter")
        with gather_weights(module):
            if trainer.is_global_zero:
                metadata = self.metadata | {"step": trainer.global_step, "validation": self.validation}
                save_adapter(module.mllm, adapter, self.recipe, metadata)
                self.note_best()
        return [adapter]

    def note_best(self) -> None:
        """Writes ``best.json``, where a step was validated."""
        if self.best_step >= 0:
            best = {"step": self.best_step, "metric": self.metric, "value": self.best_value}
            write_json(self.folder.parent / "best.json", best)
