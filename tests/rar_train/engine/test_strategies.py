"""From the recipe's words to Lightning's strategies."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from data_prep.core.errors import UserError
from data_prep.core.ranks import is_first_process, leave_slurm_alone
from data_prep.distributed.devices import own_gpu, resolve_accelerator
from data_prep.settings import TrainerArgs
from data_prep.settings.loading import load_recipe
from rar_train.engine.optimizer import adamw
from rar_train.engine.strategies import make_strategy

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_one_cpu_process_needs_no_process_group():
    strategy = make_strategy(TrainerArgs(accelerator="cpu"))
    assert isinstance(strategy, SingleDeviceStrategy)
    assert strategy.root_device == torch.device("cpu")


@pytest.mark.parametrize("args", [{"devices": 2}, {"num_nodes": 2}, {"strategy": "ddp"}])
def test_several_cpu_processes_talk_over_gloo(args):
    strategy = make_strategy(TrainerArgs(accelerator="cpu", **args))
    assert isinstance(strategy, DDPStrategy)
    assert strategy.process_group_backend == "gloo"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_runs_on_cpu_processes_and_keeps_checkpoints_small(stage, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # what strategy_of sets is undone after the test
    strategy = make_strategy(TrainerArgs(accelerator="cpu", strategy=f"deepspeed_stage_{stage}"))
    assert isinstance(strategy, DeepSpeedStrategy)
    assert strategy.config["zero_optimization"]["stage"] == stage
    assert strategy.exclude_frozen_parameters
    assert strategy.root_device.type == "cpu"
    assert strategy.config["train_micro_batch_size_per_gpu"] == 1  # or it would ask a stream's loader, which has none


@pytest.mark.parametrize(
    ("stage", "offload", "expected"),
    [(2, "optimizer", {"offload_optimizer"}), (3, "all", {"offload_optimizer", "offload_param"})],
)
def test_offload_settings_reach_deepspeed(stage, offload, expected, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    args = TrainerArgs(accelerator="cpu", strategy=f"deepspeed_stage_{stage}", offload=offload)
    config = make_strategy(args).config["zero_optimization"]
    assert {key for key in ("offload_optimizer", "offload_param") if config.get(key)} == expected


@pytest.fixture
def as_with_a_gpu(monkeypatch):
    """Settings are read as on a machine that has one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(("stage", "offload"), [(2, "none"), (2, "optimizer"), (3, "all")])
def test_on_a_gpu_too_deepspeed_takes_the_optimiser_that_it_is_given(stage, offload, as_with_a_gpu):
    args = TrainerArgs(accelerator="gpu", strategy=f"deepspeed_stage_{stage}", offload=offload)
    strategy = make_strategy(args)
    assert type(strategy) is DeepSpeedStrategy
    assert strategy.config["zero_force_ds_cpu_optimizer"] is False
    assert strategy.exclude_frozen_parameters


@pytest.mark.parametrize(
    ("settings", "fused"),
    [
        (("trainer.accelerator=cpu",), None),
        (("trainer.accelerator=cpu", "trainer.strategy=deepspeed_stage_2", "trainer.offload=optimizer"), True),
        (("trainer.accelerator=gpu",), True),
        (("trainer.accelerator=gpu", "trainer.strategy=deepspeed_stage_2"), True),
        (("trainer.accelerator=gpu", "trainer.precision=16-mixed"), None),
        (("trainer.accelerator=gpu", "optim.fused=false"), None),
    ],
)
def test_the_optimiser_is_fused_by_the_recipe_wherever_the_weights_still_are(settings, fused, as_with_a_gpu):
    weights = [torch.nn.Parameter(torch.zeros(2))]
    assert adamw(weights, load_recipe(["recipe=ranker_lora", *settings])).defaults["fused"] is fused


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


@pytest.mark.parametrize(
    ("environment", "gpus", "own"),
    [
        ({}, 8, 0),
        ({"LOCAL_RANK": "3", "RANK": "11"}, 8, 3),
        ({"SLURM_LOCALID": "5", "SLURM_PROCID": "13"}, 8, 5),
        ({"SLURM_LOCALID": "5"}, 1, 0),  # SLURM shows each process its own GPU alone
        ({"LOCAL_RANK": "1"}, 0, 0),
    ],
)
def test_each_process_of_a_machine_has_a_gpu_of_its_own(environment, gpus, own, monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert own_gpu() == own


SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "8"}


@pytest.fixture
def in_slurm(monkeypatch):
    """Plays a SLURM job of eight tasks; what is set is undone."""

    def play(**more: str) -> None:
        for name in ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "TORCHELASTIC_RUN_ID", "NODE_RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (SLURM | more).items():
            monkeypatch.setenv(name, value)

    return play


def test_in_a_batch_script_lightning_starts_the_processes_itself(in_slurm):
    in_slurm()
    leave_slurm_alone()
    assert not SLURMEnvironment.detect()
    for devices in (1, 2):
        make_strategy(TrainerArgs(accelerator="cpu", devices=devices))
    with pytest.raises(UserError, match=r"trainer.devices x trainer.num_nodes is 2, but .* not started by srun"):
        make_strategy(TrainerArgs(accelerator="cpu", num_nodes=2))
    in_slurm(TORCHELASTIC_RUN_ID="train")  # torchrun starts them
    make_strategy(TrainerArgs(accelerator="cpu", num_nodes=2))


def test_srun_starts_as_many_tasks_as_there_are_devices(in_slurm):
    in_slurm(SLURM_STEP_ID="0")
    leave_slurm_alone()
    assert SLURMEnvironment.detect()
    make_strategy(TrainerArgs(accelerator="cpu", devices=4, num_nodes=2))
    with pytest.raises(UserError, match=r"srun started 8 tasks, but .* is 1; make them equal \(srun --ntasks 1\)"):
        make_strategy(TrainerArgs(accelerator="cpu"))
    in_slurm(SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS="1")  # srun --ntasks 1 in a job of eight
    make_strategy(TrainerArgs(accelerator="cpu"))


@without_gpu
def test_auto_takes_the_cpu_where_there_is_no_gpu():
    assert resolve_accelerator(TrainerArgs()) == "cpu"


@without_gpu
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_asking_for_a_gpu_where_there_is_none_says_what_to_do(accelerator):
    with pytest.raises(UserError, match="no GPU here; use auto or cpu"):
        make_strategy(TrainerArgs(accelerator=accelerator))


@pytest.mark.parametrize("accelerator", ["tpu", "mps", "cpuu"])
def test_an_accelerator_that_is_not_supported_is_named_with_those_that_are(accelerator):
    with pytest.raises(UserError, match=f"trainer.accelerator={accelerator}: must be auto, cpu or gpu"):
        make_strategy(TrainerArgs(accelerator=accelerator))


@pytest.mark.gpu
def test_auto_takes_the_gpu():
    assert resolve_accelerator(TrainerArgs()) == "cuda"
    assert make_strategy(TrainerArgs()).root_device == torch.device("cuda", 0)
