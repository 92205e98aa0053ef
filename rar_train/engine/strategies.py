"""How a run spreads over processes, from the recipe's words to Lightning's objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from data_prep.core.errors import UserError
from data_prep.core.ranks import started_by_srun
from data_prep.distributed.devices import resolve_accelerator
from data_prep.settings import TrainerArgs


class StraightIO(TorchCheckpointIO):
    """Writes a checkpoint where it belongs; Lightning's own writes it into the temporary folder and copies it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: None = None) -> None:
        """Writes a file and has it on the disk when it returns."""
        with open(path, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


def _deepspeed(args: TrainerArgs, kind: str) -> Strategy:
    """Lightning's DeepSpeed strategy, by the recipe, on either kind of device."""
    from lightning.pytorch.strategies import DeepSpeedStrategy

    settings = {
        "stage": int(args.strategy[-1]),
        "offload_optimizer": args.offload in ("optimizer", "all"),
        "offload_parameters": args.offload == "all",
        "exclude_frozen_parameters": True,
        "logging_batch_size_per_gpu": 1,  # of its own log, which is off; it would ask a loader, which a stream's lacks
    }
    strategy = _cpu_deepspeed(settings) if kind == "cpu" else DeepSpeedStrategy(**settings)
    # In host memory torch's fused AdamW does; DeepSpeed's own would have to be compiled first.
    strategy.config["zero_force_ds_cpu_optimizer"] = False
    return strategy


def _cpu_deepspeed(settings: dict) -> Strategy:
    """Lightning's DeepSpeed strategy, taught to run on CPU processes over gloo."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # before deepspeed is imported
    import deepspeed
    from lightning.pytorch.strategies import DeepSpeedStrategy

    # It would compile this when its processes first meet, for layers split over processes; training goes over gloo.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    class CpuDeepSpeedStrategy(DeepSpeedStrategy):
        """Lightning refuses a CPU here, although DeepSpeed itself runs on one."""

        def setup_environment(self) -> None:
            DDPStrategy.setup_environment(self)

        def setup_distributed(self) -> None:
            self.set_world_ranks()
            self._init_deepspeed_distributed()

        @property
        def root_device(self) -> torch.device:
            # DeepSpeed wants an index also on a CPU.
            return torch.device("cpu", self.local_rank)

    return CpuDeepSpeedStrategy(process_group_backend="gloo", **settings)


def _check_slurm(nodes: int, processes: int) -> None:
    """Makes sure that a SLURM job of several tasks starts as many processes as the recipe asks for."""
    if "SLURM_JOB_ID" not in os.environ or {"TORCHELASTIC_RUN_ID", "NODE_RANK"} & os.environ.keys():
        return
    asked = f"trainer.devices x trainer.num_nodes is {processes}"
    if not started_by_srun() and nodes > 1:
        raise UserError(f"{asked}, but the command was not started by srun, which starts one task for each of them")
    shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # that is what Lightning goes by
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS", "1")
    if started_by_srun() and not shell and int(tasks) != processes:
        raise UserError(f"srun started {tasks} tasks, but {asked}; make them equal (srun --ntasks {processes})")


def make_strategy(args: TrainerArgs) -> Strategy:
    """Builds the recipe's strategy.

    Raises:
        UserError: SLURM started another number of processes.
    """
    kind = resolve_accelerator(args)
    processes = args.devices * args.num_nodes
    _check_slurm(args.num_nodes, processes)
    if args.strategy.startswith("deepspeed"):
        return _deepspeed(args, kind)
    if args.strategy == "ddp" or processes > 1:
        # Some LoRA weights take no part where an objective is off.
        backend = "gloo" if kind == "cpu" else "nccl"
        return DDPStrategy(find_unused_parameters=True, process_group_backend=backend, checkpoint_io=StraightIO())
    device = torch.device(kind, 0) if kind == "cuda" else torch.device("cpu")
    return SingleDeviceStrategy(device, checkpoint_io=StraightIO())


def seed_all(seed: int, kind: str) -> None:
    """Seeds everything, and on a CPU has several threads add up in a fixed order, so that a run repeats to the bit.

    Args:
        seed: The run's.
        kind: ``cpu`` or ``cuda``, where a fixed order would take time.
    """
    L.seed_everything(seed, verbose=False)
    torch.use_deterministic_algorithms(kind == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would look for reads of what was never written


@contextmanager
def gather_weights(module: L.LightningModule) -> Iterator[None]:
    """Within it the trainable parameters are whole on every process, also under ZeRO-3, which splits them.

    All processes must enter it.
    """
    split = [value for value in module.parameters() if value.requires_grad and "ds_id" in vars(value)]
    if not split:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(split):
        yield
