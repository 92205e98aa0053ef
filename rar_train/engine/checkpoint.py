"""What every training saves: a checkpoint after each validation, whole or absent; with adapters, the best one too."""

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
from rar_train.engine.checkpoint_files import checkpoint_path, tidy, write_note
from rar_train.engine.strategies import gather_weights
from rar_train.models.lora import save_adapter

log = logging.getLogger(__name__)

KEPT = 2


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


def validation_metrics(trainer: L.Trainer) -> dict[str, float]:
    """What the last validation measured, by name without ``val/``."""
    found = trainer.callback_metrics.items()
    return {key.removeprefix("val/"): round(float(value), 4) for key, value in found if key.startswith("val/")}


class Checkpoints(Callback):
    """Saves a checkpoint after every validation, and keeps the last two; see ``checkpoint_files`` for what it is.

    Args:
        recipe: The run's recipe.

    Attributes:
        validation: What the last validation measured. Checkpoints hold it, so that a run that goes on from its last
            step knows it too.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.folder = Path(recipe.out) / "checkpoints"
        self.validation: dict[str, float] = {}

    def state_dict(self) -> dict:
        """The last validation's figures, for the checkpoint."""
        return {"validation": self.validation}

    def load_state_dict(self, state: dict) -> None:
        """Goes back to a checkpoint's figures."""
        self.validation = state["validation"]

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_) -> None:
        """Counts the data position on."""
        trainer.datamodule.position.batches += 1

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Notes the figures and saves."""
        self.validation = validation_metrics(trainer)
        self.save(trainer, module, trainer.global_step)

    @property
    def kept(self) -> list[int]:
        """Steps that are kept besides the last two."""
        return []

    def save_beside(self, trainer: L.Trainer, module: L.LightningModule, final: Path) -> list[Path]:
        """Saves what belongs to a checkpoint beside it; all processes call it, and the first one writes."""
        return []

    def save(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        """Saves on all processes; the first one notes the checksums, renames and tidies up."""
        final = checkpoint_path(self.folder, step)
        part = trainer.strategy.broadcast(part_path(final))
        with write_errors(final, part):
            self.folder.mkdir(exist_ok=True)
            for left in leftover_parts(final) if trainer.is_global_zero else ():
                remove(left)
            trainer.save_checkpoint(part)
        trainer.strategy.barrier()
        with write_errors(final, part):
            beside = self.save_beside(trainer, module, final)
            if trainer.is_global_zero:
                needed = self.kept if self.recipe.trainer.adapter == "best" else []
                write_note(final, part, beside, [one for one in needed if one != step])
                if final.is_dir():
                    remove(final)
                os.replace(part, final)
                tidy(self.folder, step, KEPT, self.kept)
        trainer.strategy.barrier()


class AdapterCheckpoints(Checkpoints):
    """Also saves the adapter in peft's format, keeps the best checkpoint, and stops where nothing improves.

    The adapter is ``step-N.adapter``; ``best.json`` in the run's folder names the best step.

    Args:
        recipe: The run's recipe.
        metadata: For the adapter's manifest.
    """

    def __init__(self, recipe: Recipe, metadata: dict):
        super().__init__(recipe)
        self.metadata = metadata
        self.metric = f"val/{recipe.ranker.mode}"
        self.best_step, self.best_value, self.stale = -1, -1.0, 0

    @property
    def best(self) -> Path | None:
        """The checkpoint that validated best, or None where none was validated."""
        return checkpoint_path(self.folder, self.best_step) if self.best_step >= 0 else None

    @property
    def kept(self) -> list[int]:
        """The best step."""
        return [self.best_step] if self.best_step >= 0 else []

    def state_dict(self) -> dict:
        """The best so far too."""
        best = {"best_step": self.best_step, "best_value": self.best_value, "stale": self.stale}
        return super().state_dict() | best

    def load_state_dict(self, state: dict) -> None:
        """Goes back to a checkpoint's best."""
        super().load_state_dict(state)
        self.best_step, self.best_value, self.stale = state["best_step"], state["best_value"], state["stale"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A run that had stopped early stays stopped."""
        self._stop_if_stale(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Notes whether this is the best step so far, saves it, and stops where it is time."""
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

    def save_beside(self, trainer: L.Trainer, module: L.LightningModule, final: Path) -> list[Path]:
        """Saves the adapter and names the best step."""
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
            note = {"step": self.best_step, "metric": self.metric, "value": self.best_value}
            write_json(self.folder.parent / "best.json", note)
