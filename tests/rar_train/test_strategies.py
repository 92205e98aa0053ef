"""From the recipe's words to Lightning's strategies."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from data_prep.errors import UserError
from data_prep.settings import TrainerArgs
from rar_train.strategies import accelerator_of, is_first_process, strategy_of

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_one_cpu_process_needs_no_process_group():
    strategy = strategy_of(TrainerArgs(accelerator="cpu"))
    assert isinstance(strategy, SingleDeviceStrategy)
    assert strategy.root_device == torch.device("cpu")


@pytest.mark.parametrize("args", [{"devices": 2}, {"num_nodes": 2}, {"strategy": "ddp"}])
def test_several_cpu_processes_talk_over_gloo(args):
    strategy = strategy_of(TrainerArgs(accelerator="cpu", **args))
    assert isinstance(strategy, DDPStrategy)
    assert strategy.process_group_backend == "gloo"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_runs_on_cpu_processes_and_keeps_checkpoints_small(stage, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # what strategy_of sets is undone after the test
    strategy = strategy_of(TrainerArgs(accelerator="cpu", strategy=f"deepspeed_stage_{stage}"))
    assert isinstance(strategy, DeepSpeedStrategy)
    assert strategy.config["zero_optimization"]["stage"] == stage
    assert strategy.exclude_frozen_parameters
    assert strategy.root_device.type == "cpu"


@pytest.mark.parametrize(
    ("stage", "offload", "expected"),
    [(2, "optimizer", {"offload_optimizer"}), (3, "all", {"offload_optimizer", "offload_param"})],
)
def test_offload_settings_reach_deepspeed(stage, offload, expected, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    args = TrainerArgs(accelerator="cpu", strategy=f"deepspeed_stage_{stage}", offload=offload)
    config = strategy_of(args).config["zero_optimization"]
    assert {key for key in ("offload_optimizer", "offload_param") if config.get(key)} == expected


@pytest.mark.parametrize(
    ("strategy", "offload", "message"),
    [("ddp", "optimizer", "only DeepSpeed offloads"), ("deepspeed_stage_2", "all", "deepspeed_stage_3 alone")],
)
def test_offload_that_a_strategy_cannot_do_is_refused(strategy, offload, message):
    with pytest.raises(UserError, match=message):
        TrainerArgs(strategy=strategy, offload=offload)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),  # torchrun, second machine
        ({"SLURM_PROCID": "8", "SLURM_LOCALID": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True),
    ],
)
def test_one_process_alone_is_the_first_under_every_launcher(environment, first, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first


@without_gpu
def test_auto_takes_the_cpu_where_there_is_no_gpu():
    assert accelerator_of(TrainerArgs()) == "cpu"


@without_gpu
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_asking_for_a_gpu_where_there_is_none_says_what_to_do(accelerator):
    with pytest.raises(UserError, match="no GPU here; use auto or cpu"):
        strategy_of(TrainerArgs(accelerator=accelerator))


@pytest.mark.parametrize("accelerator", ["tpu", "mps", "cpuu"])
def test_an_accelerator_that_is_not_supported_is_named_with_those_that_are(accelerator):
    with pytest.raises(UserError, match=f"trainer.accelerator={accelerator}: must be auto, cpu or gpu"):
        strategy_of(TrainerArgs(accelerator=accelerator))


@pytest.mark.gpu
def test_auto_takes_the_gpu():
    assert accelerator_of(TrainerArgs()) == "cuda"
    assert strategy_of(TrainerArgs()).root_device == torch.device("cuda", 0)
