"""Runs ``Trainer.predict`` in processes that the command spawns, however it was launched, or in those of a launcher."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from data_prep.core.command import quiet_libraries
from data_prep.core.errors import UserError
from data_prep.core.memory_budget import keep_freed_memory
from data_prep.core.os_errors import describe_error
from data_prep.distributed.devices import local_gpu_index
from data_prep.settings import check

_LONGEST_WAIT = timedelta(days=7)


class _SpawnedDDP(DDPStrategy):
    """Lightning's DDP strategy, in processes that exit when the command that spawned them does."""

    def setup_environment(self) -> None:
        """Starts the thread that watches the parent process; Lightning calls this in each process."""
        quiet_libraries()  # a spawned process starts with default settings
        keep_freed_memory()
        threading.Thread(target=_exit_with_parent, daemon=True).start()
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # the store of torchrun's processes
        super().setup_environment()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this process was spawned
    parent.join()
    os._exit(1)


class _OneMachine(LightningEnvironment):
    """Spawned processes of one machine: torchrun's address and port belong to the processes that it started."""

    def __init__(self):
        super().__init__()
        self._port = find_free_network_port()

    @property
    def main_address(self) -> str:
        """The address of this machine for itself."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """A port that was free when the processes were planned."""
        return self._port

    def node_rank(self) -> int:
        """0: ``NODE_RANK`` is the rank of the command's machine among several, each with processes of its own."""
        return 0


def make_predict_strategy(kind: str, devices: int, num_nodes: int = 1, launched: bool = False) -> Strategy:
    """Returns the Lightning strategy for ``Trainer.predict`` in one process or in several.

    Processes are spawned rather than started as a second command: that works in the middle of any command, even where
    only its first process reaches this point, and where CUDA is already in use. They assign their own ranks: under
    SLURM and torchrun the ranks in the environment are those of the commands. One process predicts here, on its own GPU
    where a launcher has started it with others.

    Args:
        kind: ``cpu``, ``cuda`` or ``mps``.
        devices: Processes on each machine.
        num_nodes: Machines.
        launched: The processes are those that a launcher started, and all of them predict.
    """
    if devices * num_nodes == 1:
        return SingleDeviceStrategy(torch.device(kind, local_gpu_index()) if kind == "cuda" else torch.device(kind))
    check(
        kind != "mps", "trainer.devices: an Apple GPU is one device; set trainer.devices=1, or trainer.accelerator=cpu"
    )
    if launched:  # they only wait for each other, for as long as the slowest takes
        return DDPStrategy(process_group_backend="gloo", timeout=_LONGEST_WAIT)
    return _SpawnedDDP(
        start_method="spawn",
        process_group_backend="gloo" if kind == "cpu" else "nccl",
        cluster_environment=_OneMachine() if num_nodes == 1 else LightningEnvironment(),
    )


def make_predict_trainer(
    kind: str,
    devices: int,
    num_nodes: int = 1,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    launched: bool = False,
) -> L.Trainer:
    """Makes the Trainer of a stage that predicts, in this process, in spawned ones, or in those of a launcher.

    Args:
        kind: ``cpu``, ``cuda`` or ``mps``.
        devices: Processes on each machine.
        num_nodes: Machines.
        callbacks: Write the results.
        progress: Whether to show Lightning's progress bar.
        launched: As in ``make_predict_strategy``.
    """
    return L.Trainer(
        strategy=make_predict_strategy(kind, devices, num_nodes, launched),
        accelerator=kind,
        devices=devices,
        num_nodes=num_nodes,
        # One process is alone, although Lightning would read the variables of SLURM and torchrun.
        plugins=[LightningEnvironment()] if devices * num_nodes == 1 else None,
        callbacks=[*callbacks, _OwnSignals()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


class _OwnSignals(Callback):
    """Keeps the handler of SIGTERM: Lightning's own finishes predicting first, or waits for the other processes."""

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Remembers the handler; Lightning replaces it later."""
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_predict_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Puts the handler back, in the thread that may."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


def run_predict(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Runs ``Trainer.predict``; if it fails or is interrupted, its spawned processes end at once.

    Raises:
        UserError: A process or a data-loading worker failed (with its own message) or was killed.
    """
    with spawn_errors():
        try:
            trainer.predict(module, return_predictions=False)
        except BaseException:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGKILL)
            raise


@contextmanager
def spawn_errors() -> Iterator[None]:
    """Wraps ``Trainer.predict``: translates errors of other processes, and restores the environment.

    Lightning leaves ``MASTER_PORT`` set, and the next Trainer of the command would reuse that port.

    Raises:
        UserError: A spawned process or a data-loading worker failed (with its own message) or was killed.
    """
    port = os.environ.get("MASTER_PORT")
    try:
        yield
    except (ProcessRaisedException, UserError) as error:
        message = describe_error(error)
        raise UserError(message) if message else error from None
    except ProcessExitedException as error:
        raise UserError(
            f"{error}; the same command resumes from what is done. If memory ran out, lower retriever.batch_size, "
            "eval.batch_size or trainer.devices"
        ) from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"{error}; the same command resumes from what is done. If memory ran out, which may be the shared memory "
            "of a container (/dev/shm), lower trainer.num_workers or the batch size"
        ) from None
    finally:
        if port is None:
            os.environ.pop("MASTER_PORT", None)
        else:
            os.environ["MASTER_PORT"] = port
