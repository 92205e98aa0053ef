"""Distribution over processes: from the recipe's strategy to Lightning's."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from data_prep.core.errors import UserError
from data_prep.core.ranks import started_by_srun
from data_prep.distributed.devices import resolve_accelerator
from data_prep.settings import TrainerArgs


class StraightIO(TorchCheckpointIO):
    """Writes a checkpoint directly to its path; Lightning's default writes to the temporary folder and copies."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: None = None) -> None:
        """Writes a file and flushes it to disk (fsync) before it returns."""
        with open(path, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


def check_deepspeed(args: TrainerArgs) -> None:
    """Checks that DeepSpeed is installed where the strategy needs it.

    Raises:
        UserError: It is not installed.
    """
    if args.zero_stage and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f"trainer.strategy={args.strategy}: DeepSpeed is not installed. It needs Linux: there, run pip install "
            "deepspeed ninja; elsewhere set trainer.strategy=auto or ddp"
        )


def _make_deepspeed(args: TrainerArgs, kind: str) -> Strategy:
    """Makes Lightning's DeepSpeed strategy for a CPU or CUDA GPUs."""
    from lightning.pytorch.strategies import DeepSpeedStrategy

    settings = {
        "stage": args.zero_stage,
        "offload_optimizer": args.offload in ("optimizer", "all"),
        "offload_parameters": args.offload == "all",
        "exclude_frozen_parameters": True,
        # For DeepSpeed's log only, which is off; by default it is read from the data loader, which streams lack.
        "logging_batch_size_per_gpu": 1,
    }
    strategy = _make_cpu_deepspeed(settings) if kind == "cpu" else DeepSpeedStrategy(**settings)
    # In host memory torch's fused AdamW is used; DeepSpeed's CPU optimiser would have to be compiled first.
    strategy.config["zero_force_ds_cpu_optimizer"] = False
    return strategy


def _make_cpu_deepspeed(settings: dict) -> Strategy:
    """Makes Lightning's DeepSpeed strategy, adapted to CPU processes over gloo."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # before deepspeed is imported
    import deepspeed
    from lightning.pytorch.strategies import DeepSpeedStrategy

    # DeepSpeed would compile this operation, for tensor-parallel layers, when its processes connect; gloo is used.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    class CpuDeepSpeedStrategy(DeepSpeedStrategy):
        """DeepSpeed on a CPU, which DeepSpeed supports but Lightning refuses."""

        def setup_environment(self) -> None:
            DDPStrategy.setup_environment(self)

        def setup_distributed(self) -> None:
            self.set_world_ranks()
            self._init_deepspeed_distributed()

        @property
        def root_device(self) -> torch.device:
            # DeepSpeed needs an index on a CPU too.
            return torch.device("cpu", self.local_rank)

    return CpuDeepSpeedStrategy(process_group_backend="gloo", **settings)


def _check_slurm(nodes: int, processes: int) -> None:
    """Checks that a SLURM job starts as many tasks as the recipe has processes."""
    if "SLURM_JOB_ID" not in os.environ or {"TORCHELASTIC_RUN_ID", "NODE_RANK"} & os.environ.keys():
        return
    expected = f"trainer.devices x trainer.num_nodes is {processes}"
    if not started_by_srun() and nodes > 1:
        raise UserError(f"{expected}, but the command was not started by srun, which starts one task for each of them")
    shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # the same test as Lightning's
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS", "1")
    if started_by_srun() and not shell and int(tasks) != processes:
        raise UserError(f"srun started {tasks} tasks, but {expected}; make them equal (srun --ntasks {processes})")


def make_strategy(args: TrainerArgs, idle_parameters: bool = False) -> Strategy:
    """Makes the recipe's strategy.

    Args:
        args: Strategy and processes.
        idle_parameters: Whether a step may leave some trained parameters without a gradient. DDP then looks for them
            in the graph of every step, which costs time; where it does not, ``CheckGradients`` checks that there are
            none.

    Raises:
        UserError: SLURM started a different number of processes, DeepSpeed is not installed, or an Apple GPU (``mps``)
            is to run several processes or DeepSpeed.
    """
    kind = resolve_accelerator(args)
    processes = args.devices * args.num_nodes
    _check_slurm(args.num_nodes, processes)
    check_deepspeed(args)
    if kind == "mps" and (processes > 1 or args.zero_stage):
        raise UserError(
            f"trainer.strategy={args.strategy}, {processes} processes: an Apple GPU (mps) runs one process, without "
            "DeepSpeed; set trainer.devices=1 trainer.num_nodes=1 trainer.strategy=auto, or trainer.accelerator=cpu"
        )
    if args.zero_stage:
        return _make_deepspeed(args, kind)
    if kind != "mps" and (args.strategy == "ddp" or processes > 1):
        backend = "gloo" if kind == "cpu" else "nccl"
        io = StraightIO()
        return DDPStrategy(find_unused_parameters=idle_parameters, process_group_backend=backend, checkpoint_io=io)
    device = torch.device("cpu") if kind == "cpu" else torch.device(kind, 0)
    return SingleDeviceStrategy(device, checkpoint_io=StraightIO())


class CheckGradients(Callback):
    """Checks after the first backward pass under DDP that every trained parameter has a gradient.

    DDP would leave the gradients that share a bucket with a missing one unreduced, and fail one step later.
    """

    def __init__(self) -> None:
        self._checked = False

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Lightning's hook.

        Raises:
            UserError: A trained parameter has no gradient.
        """
        if self._checked or type(trainer.strategy) is not DDPStrategy:  # DeepSpeed's is a subclass
            return
        self._checked = True
        trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        idle = [name for name, value in trained.items() if value.grad is None]
        if idle:
            raise UserError(
                f"{len(idle)} of {len(trained)} trained parameters take no part in a step, such as {idle[0]}, so "
                "processes can't average their gradients (DDP); leave their layers out of the adapter with "
                "ranker.lora.target_modules or ranker.lora.scope, or train on one device"
            )


def seed_all(seed: int, kind: str) -> None:
    """Seeds all random generators, and on a CPU turns on deterministic algorithms, so that runs are bit-identical.

    Args:
        seed: The run's seed.
        kind: ``cpu``, ``cuda`` or ``mps``; on GPUs deterministic algorithms would cost time and stay off.
    """
    L.seed_everything(seed, verbose=False)
    torch.use_deterministic_algorithms(kind == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time


@contextmanager
def gather_weights(module: L.LightningModule) -> Iterator[None]:
    """Gathers the trainable parameters on every process within the block; ZeRO-3 partitions them.

    All processes must enter it.
    """
    partitioned = [value for value in module.parameters() if value.requires_grad and "ds_id" in vars(value)]
    if not partitioned:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(partitioned):
        yield
