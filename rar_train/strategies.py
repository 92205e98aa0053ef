"""How a run spreads over processes, from the recipe's words to Lightning's objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from data_prep.devices import accelerator_of
from data_prep.settings import TrainerArgs, check


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


def _check_slurm(args: TrainerArgs) -> None:
    """Checks that a SLURM job's tasks are the recipe's processes, for which Lightning takes them and waits.

    Raises:
        UserError: They are others, or srun did not start this command.
    """
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return
    processes = args.devices * args.num_nodes
    tasks, a_node = os.environ["SLURM_NTASKS"], os.environ.get("SLURM_NTASKS_PER_NODE", "1" if processes == 1 else None)
    by_srun = "SLURM_STEP_ID" in os.environ
    check(
        by_srun and (tasks, a_node) == (str(processes), str(args.devices)),
        f"trainer.devices={args.devices} trainer.num_nodes={args.num_nodes}: this SLURM job has other tasks "
        f"(SLURM_NTASKS={tasks}, SLURM_NTASKS_PER_NODE={a_node}){'' if by_srun else ', and srun did not start this'}; "
        f"start the command with srun --nodes={args.num_nodes} --ntasks-per-node={args.devices}, or name the job "
        "interactive (--job-name=interactive) to have it start its processes itself",
    )


def strategy_of(args: TrainerArgs) -> Strategy:
    """Builds the recipe's strategy.

    Raises:
        UserError: The command runs in a SLURM job whose tasks are not the recipe's processes.
    """
    kind = accelerator_of(args)
    processes = args.devices * args.num_nodes
    if args.strategy != "auto" or processes > 1:
        _check_slurm(args)
    if args.strategy.startswith("deepspeed"):
        return _deepspeed(args, kind)
    if args.strategy == "ddp" or processes > 1:
        # Some LoRA weights take no part where an objective is off.
        return DDPStrategy(find_unused_parameters=True, process_group_backend="gloo" if kind == "cpu" else "nccl")
    return SingleDeviceStrategy(torch.device(kind, 0) if kind == "cuda" else torch.device("cpu"))


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
def gathered(module: L.LightningModule) -> Iterator[None]:
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
