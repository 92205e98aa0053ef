"""Lightning Trainers of all trainings; the only place where their flags are set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.strategies import Strategy

from data_prep.distributed.devices import resolve_accelerator
from data_prep.settings import Recipe
from rar_train.engine.progress import TrainingLog, progress_bar

MIN_VALIDATIONS = 4
"""Least number of validations, and of checkpoints, in a run of as many steps or more."""


def validation_interval(checkpoint_every: int, steps: int) -> int:
    """Returns the number of optimizer steps between validations; one more validation is at the end of the run.

    Args:
        checkpoint_every: ``trainer.checkpoint_every``, the largest interval.
        steps: Optimizer steps of the entire run, at least 1.

    Returns:
        int: At least 1. The multiples of it below ``steps``, and ``steps``, are ``MIN_VALIDATIONS`` or more; in a run
        of fewer steps each step is validated.
    """
    longest = (steps - 1) // (MIN_VALIDATIONS - 1)  # of a longer one there are too few before the end
    return max(1, min(checkpoint_every, -(-steps // MIN_VALIDATIONS), longest))


def make_trainer(
    recipe: Recipe,
    strategy: Strategy,
    steps: int,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    count: Callable[[Any], int],
) -> L.Trainer:
    """Makes a Trainer that validates every ``validation_interval`` steps; ``Checkpoints`` has it validate at the end.

    Args:
        recipe: Its ``trainer`` and ``optim`` sections give devices, precision, accumulation and clipping.
        strategy: From ``make_strategy``.
        steps: Optimizer steps of the entire run.
        loggers: Loggers of the metrics.
        callbacks: Callbacks in addition to the progress bar or log.
        count: Counts the examples of a batch, for the log.
    """
    args, bar = recipe.trainer, progress_bar(recipe.trainer)
    return L.Trainer(
        strategy=strategy,
        accelerator=resolve_accelerator(args),
        devices=args.devices,
        num_nodes=args.num_nodes,
        precision=args.precision,
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=recipe.optim.grad_accum_steps,
        gradient_clip_val=args.grad_clip_norm,
        val_check_interval=validation_interval(args.checkpoint_every, steps) * recipe.optim.grad_accum_steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=args.log_every,
        logger=loggers,
        callbacks=[*callbacks, *(bar or [TrainingLog(count)])],
        enable_checkpointing=False,
        enable_progress_bar=bool(bar),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def make_device_trainer(recipe: Recipe, folder: Path, steps: int) -> L.Trainer:
    """Makes a Trainer on one device for a fixed number of steps, without validation or checkpoints.

    Args:
        recipe: Its ``trainer`` section gives accelerator and progress bar.
        folder: The losses are written to ``log/`` in it, as CSV.
        steps: Optimizer steps.
    """
    bar = progress_bar(recipe.trainer)
    return L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator=resolve_accelerator(replace(recipe.trainer, devices=1, num_nodes=1)),
        devices=1,
        gradient_clip_val=1.0,
        logger=CSVLogger(folder, name="", version="log"),
        log_every_n_steps=50,
        enable_checkpointing=False,
        callbacks=bar,
        enable_progress_bar=bool(bar),
        enable_model_summary=False,
    )
