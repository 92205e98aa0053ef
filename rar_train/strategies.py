"""How a run spreads over processes, from the recipe's words to Lightning's objects."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from data_prep.devices import accelerator_of
from data_prep.settings import TrainerArgs


def _cpu_deepspeed(stage: int) -> Strategy:
    """Lightning's DeepSpeed strategy, taught to run on CPU processes over gloo."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # before deepspeed is imported
    from lightning.pytorch.strategies import DeepSpeedStrategy

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

        def load_checkpoint(self, checkpoint_path: str, weights_only: bool | None = None) -> Mapping:
            return super().load_checkpoint(checkpoint_path, weights_only)

    return CpuDeepSpeedStrategy(stage=stage, process_group_backend="gloo", exclude_frozen_parameters=True)


def strategy_of(args: TrainerArgs) -> Strategy:
    """Builds the recipe's strategy.

    Raises:
        UserError: Several processes without a strategy for them.
    """
    kind = accelerator_of(args)
    processes = args.devices * args.num_nodes
    if args.strategy.startswith("deepspeed"):
        stage = int(args.strategy[-1])
        if kind == "cpu":
            return _cpu_deepspeed(stage)
        from lightning.pytorch.strategies import DeepSpeedStrategy

        return DeepSpeedStrategy(stage=stage, exclude_frozen_parameters=True)
    if args.strategy == "ddp" or processes > 1:
        # Some LoRA weights take no part where an objective is off.
        return DDPStrategy(find_unused_parameters=True, process_group_backend="gloo" if kind == "cpu" else "nccl")
    return SingleDeviceStrategy(torch.device(kind, 0) if kind == "cuda" else torch.device("cpu"))
