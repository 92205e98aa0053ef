"""Work under ``Trainer.predict`` that a command deals out to processes of its own, however it was itself launched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch.multiprocessing import ProcessRaisedException

from data_prep.errors import UserError
from data_prep.os_errors import words_of


def predicting_strategy(kind: str, several: bool) -> Strategy:
    """Lightning's strategy for it.

    Processes are spawned rather than started as a second command: that works in the middle of any command, also where
    only its first process gets there, and where CUDA is in use already. They count themselves: under SLURM and torchrun
    the ranks in the environment are those of the commands.

    Args:
        kind: ``cpu`` or ``cuda``.
        several: Whether there is work for more than one process.
    """
    if not several:
        return SingleDeviceStrategy(torch.device(kind, 0) if kind == "cuda" else torch.device("cpu"))
    return DDPStrategy(
        start_method="spawn",
        process_group_backend="gloo" if kind == "cpu" else "nccl",
        cluster_environment=LightningEnvironment(),
    )


@contextmanager
def spawning() -> Iterator[None]:
    """Surrounds ``Trainer.predict``.

    Lightning leaves its port where the next Trainer of the command would take it for its own; it is taken back.

    Raises:
        UserError: What a spawned process met, in its words.
    """
    own = "MASTER_PORT" not in os.environ
    try:
        yield
    except ProcessRaisedException as error:
        said = words_of(error)
        raise UserError(said) if said else error from None
    finally:
        if own:
            os.environ.pop("MASTER_PORT", None)
