"""Runs ``Trainer.predict`` in processes that the command spawns itself, however the command was launched."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from data_prep.core.errors import UserError
from data_prep.core.os_errors import describe_error
from data_prep.settings import check


class _SpawnedDDP(DDPStrategy):
    """Lightning's DDP strategy, in processes that exit when the command that spawned them does."""

    def setup_environment(self) -> None:
        """Starts the thread that watches the parent process; Lightning calls this in each process."""
        threading.Thread(target=_exit_with_parent, daemon=True).start()
        super().setup_environment()


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def make_predict_strategy(kind: str, parallel: bool) -> Strategy:
    """Returns the Lightning strategy for ``Trainer.predict`` in one process or in several spawned ones.

    Processes are spawned rather than started as a second command: that works in the middle of any command, even where
    only its first process reaches this point, and where CUDA is already in use. They assign their own ranks: under
    SLURM and torchrun the ranks in the environment are those of the commands.

    Args:
        kind: ``cpu``, ``cuda`` or ``mps``.
        parallel: Whether to use more than one process.
    """
    if not parallel:
        return SingleDeviceStrategy(torch.device("cpu") if kind == "cpu" else torch.device(kind, 0))
    check(
        kind != "mps", "trainer.devices: an Apple GPU is one device; set trainer.devices=1, or trainer.accelerator=cpu"
    )
    return _SpawnedDDP(
        start_method="spawn",
        process_group_backend="gloo" if kind == "cpu" else "nccl",
        cluster_environment=LightningEnvironment(),
    )


def make_predict_trainer(
    kind: str, devices: int, num_nodes: int = 1, callbacks: Sequence[Callback] = (), progress: bool = False
) -> L.Trainer:
    """Makes the Trainer of a stage that predicts, in this process or in spawned ones.

    Args:
        kind: ``cpu``, ``cuda`` or ``mps``.
        devices: Processes on each machine.
        num_nodes: Machines.
        callbacks: Write the results.
        progress: Whether to show Lightning's progress bar.
    """
    return L.Trainer(
        strategy=make_predict_strategy(kind, devices * num_nodes > 1),
        accelerator=kind,
        devices=devices,
        num_nodes=num_nodes,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


@contextmanager
def spawn_errors() -> Iterator[None]:
    """Wraps ``Trainer.predict``: translates errors of spawned processes, and restores the environment.

    Lightning leaves ``MASTER_PORT`` set, and the next Trainer of the command would reuse that port; it is unset again.

    Raises:
        UserError: A spawned process failed (with its own message) or was killed.
    """
    port_was_unset = "MASTER_PORT" not in os.environ
    try:
        yield
    except ProcessRaisedException as error:
        message = describe_error(error)
        raise UserError(message) if message else error from None
    except ProcessExitedException as error:
        raise UserError(
            f"{error}; the same command resumes from what is done. If memory ran out, lower retriever.batch_size, "
            "eval.batch_size or trainer.devices"
        ) from None
    finally:
        if port_was_unset:
            os.environ.pop("MASTER_PORT", None)
