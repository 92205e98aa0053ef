"""The life of a training run: claim the folder, reuse a complete result, resume from a checkpoint, fit, save, barrier.

Each task (ranker, retriever, projector) gives the part that differs: which data and model it builds, and what it saves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy

from data_prep.core.saving import write_errors
from data_prep.distributed.processes import Processes, process_group
from data_prep.settings import Recipe
from rar_train.engine.checkpoint import fit_from
from rar_train.engine.checkpoint_files import find_newest_checkpoint, steps_done
from rar_train.engine.run_folder import claim_run_folder, is_complete, note_start
from rar_train.engine.strategies import gather_weights, make_strategy
from rar_train.engine.tracking import make_loggers
from rar_train.engine.trainer import make_trainer, validation_interval

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A training run whose folder is claimed and whose result is not there yet.

    Attributes:
        recipe: The run's recipe.
        processes: The processes that train together.
        result: The folder that the run leaves: ``adapter`` or ``model`` in the run's folder.
    """

    recipe: Recipe
    processes: Processes
    result: Path

    @cached_property
    def checkpoint(self) -> Path | None:
        """The newest intact checkpoint, or None. Its files are hashed, and damage is logged, at the first access."""
        return find_newest_checkpoint(Path(self.recipe.out) / "checkpoints")

    @property
    def start(self) -> int:
        """Optimizer steps done before this process started."""
        return steps_done(self.checkpoint)

    def fit(
        self,
        module: L.LightningModule,
        data: L.LightningDataModule,
        steps: int,
        callbacks: Sequence[Callback],
        count: Callable[[Any], int],
        strategy: Strategy | None = None,
        metadata: dict | None = None,
    ) -> L.Trainer:
        """Trains, from the newest intact checkpoint where there is one.

        Args:
            module: What is trained.
            data: The examples.
            steps: Optimizer steps of the whole run.
            callbacks: Those that save checkpoints among them.
            count: Counts the examples of a batch, for the log.
            strategy: The recipe's, where the caller has built it already.
            metadata: For the loggers, in addition to the recipe.

        Raises:
            Interrupted: By Ctrl-C; says how to resume.
        """
        # Towers of open_clip may have weights that no pass uses.
        strategy = strategy or make_strategy(self.recipe.trainer, idle_parameters=True)
        loggers = make_loggers(self.recipe, self.start, metadata)
        trainer = make_trainer(self.recipe, strategy, steps, loggers, callbacks, count)
        if self.processes.rank == 0:
            note_start(self.recipe)
            self._log_interval(steps)
        fit_from(self.checkpoint, trainer, module, data)
        return trainer

    def _log_interval(self, steps: int) -> None:
        setting = self.recipe.trainer.checkpoint_every
        interval = validation_interval(setting, steps)
        shortened = f" (trainer.checkpoint_every={setting} is for longer runs)" if interval < setting else ""
        every = "every step" if interval == 1 else f"every {interval} steps and at the end"
        log.info("training: validation and checkpoint %s%s", every, shortened)

    def save(self, trainer: L.Trainer, module: L.LightningModule, write: Callable[[Path], object]) -> None:
        """Writes the result on the first process. All processes must call it, since ZeRO-3 gathers split weights here.

        Args:
            trainer: From ``fit``.
            module: What was trained.
            write: Writes the result into the folder it is given, or leaves the folder as it was.

        Raises:
            UserError: The disk is full or refuses; names the folder and says what to do.
        """
        with gather_weights(module), write_errors(self.result):
            if trainer.is_global_zero:
                write(self.result)


def train_run(
    recipe: Recipe, result: str, train: Callable[[Run], L.Trainer], repair: Callable[[], object] = lambda: None
) -> Path:
    """Runs or resumes a training; does nothing where its result is complete.

    Args:
        recipe: The run's recipe.
        result: Name of the folder, in the run's folder, that the training leaves.
        train: Trains and saves the result; runs on every process and returns the Trainer.
        repair: Called on the first process where the result is complete, for files that belong to it.

    Returns:
        Path: The result's folder.
    """
    with process_group(recipe) as processes:
        run = Run(recipe, processes, Path(recipe.out) / result)
        processes.after_first("run's folder", lambda: claim_run_folder(recipe))
        if is_complete(run.result):
            if processes.rank == 0:
                repair()
            log.info("training: %s is complete; reusing its %s", recipe.out, result)
        else:
            train(run).strategy.barrier()
        return run.result
