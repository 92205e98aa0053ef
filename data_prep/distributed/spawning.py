"""Work under ``Trainer.predict`` that a command deals out to processes of its own, however it was itself launched."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from data_prep.core.errors import UserError
from data_prep.core.os_errors import describe_error


class _Spawned(DDPStrategy):
    """Lightning's strategy, in processes that do not outlive the command that started them."""

    def setup_environment(self) -> None:
        """Called in each process."""
        threading.Thread(target=_end_with_the_command, daemon=True).start()
        super().setup_environment()


def _end_with_the_command() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


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
    return _Spawned(
        start_method="spawn",
        process_group_backend="gloo" if kind == "cpu" else "nccl",
        cluster_environment=LightningEnvironment(),
    )


@contextmanager
def spawning() -> Iterator[None]:
    """Surrounds ``Trainer.predict``.

    Lightning leaves its port where the next Trainer of the command would take it for its own; it is taken back.

    Raises:
        UserError: What a spawned process met, in its words, or that it was killed.
    """
    own = "MASTER_PORT" not in os.environ
    try:
        yield
    except ProcessRaisedException as error:
        said = describe_error(error)
        raise UserError(said) if said else error from None
    except ProcessExitedException as error:
        raise UserError(
            f"{error}; the same command goes on from what is done. If memory ran out, lower retriever.batch_size, "
            "eval.batch_size or trainer.devices"
        ) from None
    finally:
        if own:
            os.environ.pop("MASTER_PORT", None)
