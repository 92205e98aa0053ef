"""The recipe's strategy, accelerator and processes become Lightning's strategies."""

from __future__ import annotations

import importlib.util

import lightning as L
import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from data_prep.core.errors import UserError
from data_prep.core.ranks import disable_lightning_slurm, is_first_process
from data_prep.distributed.devices import local_gpu_index, resolve_accelerator
from data_prep.settings import TrainerArgs
from data_prep.settings.loading import load_recipe
from rar_train.engine.optimizer import make_adamw
from rar_train.engine.strategies import CheckGradients, make_strategy
from rar_train.engine.trainer import make_device_trainer

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
with_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed needs Linux")


def test_one_cpu_process_needs_no_process_group():
    strategy = make_strategy(TrainerArgs(accelerator="cpu"))
    assert isinstance(strategy, SingleDeviceStrategy)
    assert strategy.root_device == torch.device("cpu")


@pytest.mark.parametrize("args", [{"devices": 2}, {"num_nodes": 2}, {"strategy": "ddp"}])
def test_several_cpu_processes_talk_over_gloo(args):
    strategy = make_strategy(TrainerArgs(accelerator="cpu", **args))
    assert isinstance(strategy, DDPStrategy)
    assert strategy.process_group_backend == "gloo"


@with_deepspeed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_runs_on_cpu_processes_and_keeps_checkpoints_small(stage, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # make_strategy sets it; undone after the test
    strategy = make_strategy(TrainerArgs(accelerator="cpu", strategy=f"deepspeed_stage_{stage}"))
    assert isinstance(strategy, DeepSpeedStrategy)
    assert strategy.config["zero_optimization"]["stage"] == stage
    assert strategy.exclude_frozen_parameters
    assert strategy.root_device.type == "cpu"
    assert strategy.config["train_micro_batch_size_per_gpu"] == 1  # else it is read from a loader, and streams lack it


@pytest.mark.parametrize(
    ("strategy", "stage"),
    [("auto", 0), ("ddp", 0), ("deepspeed_stage_1", 1), ("deepspeed_stage_2", 2), ("deepspeed_stage_3", 3)],
)
def test_the_zero_stage_is_that_of_a_deepspeed_strategy_and_0_otherwise(strategy, stage):
    assert TrainerArgs(strategy=strategy).zero_stage == stage


def test_a_deepspeed_strategy_without_deepspeed_says_that_it_needs_linux(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(UserError, match=r"deepspeed_stage_2: .* needs Linux.*pip install deepspeed ninja"):
        make_strategy(TrainerArgs(accelerator="cpu", strategy="deepspeed_stage_2"))
    assert isinstance(make_strategy(TrainerArgs(accelerator="cpu")), SingleDeviceStrategy)


@with_deepspeed
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
def fake_gpu(monkeypatch):
    """Settings are read as on a machine with a CUDA GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def fake_mps(monkeypatch):
    """Settings are read as on a Mac: an Apple GPU, no CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@with_deepspeed
@pytest.mark.parametrize(("stage", "offload"), [(2, "none"), (2, "optimizer"), (3, "all")])
def test_on_a_gpu_too_deepspeed_uses_the_optimiser_that_it_is_given(stage, offload, fake_gpu):
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
def test_the_optimiser_is_fused_by_the_recipes_device(settings, fused, fake_gpu):
    weights = [torch.nn.Parameter(torch.zeros(2))]
    assert make_adamw(weights, load_recipe(["recipe=ranker_lora", *settings])).defaults["fused"] is fused


@pytest.mark.parametrize(
    ("strategy", "offload", "message"),
    [("ddp", "optimizer", "only DeepSpeed offloads"), ("deepspeed_stage_2", "all", "deepspeed_stage_3 alone")],
)
def test_offload_that_a_strategy_does_not_support_is_refused(strategy, offload, message):
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
def test_exactly_one_process_is_the_first_under_every_launcher(environment, first, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first


@pytest.mark.parametrize(
    ("environment", "gpus", "expected"),
    [
        ({}, 8, 0),
        ({"LOCAL_RANK": "3", "RANK": "11"}, 8, 3),
        ({"SLURM_LOCALID": "5", "SLURM_PROCID": "13"}, 8, 5),
        ({"SLURM_LOCALID": "5"}, 1, 0),  # SLURM shows each process only its own GPU
        ({"LOCAL_RANK": "1"}, 0, 0),
    ],
)
def test_each_process_of_a_machine_has_its_own_gpu(environment, gpus, expected, monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert local_gpu_index() == expected


SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "8"}


@pytest.fixture
def in_slurm(monkeypatch):
    """Sets the environment of a SLURM job of eight tasks for the test."""

    def set_environment(**changes: str) -> None:
        for name in ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "TORCHELASTIC_RUN_ID", "NODE_RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (SLURM | changes).items():
            monkeypatch.setenv(name, value)

    return set_environment


def test_in_a_batch_script_lightning_starts_the_processes_itself(in_slurm):
    in_slurm()
    disable_lightning_slurm()
    assert not SLURMEnvironment.detect()
    for devices in (1, 2):
        make_strategy(TrainerArgs(accelerator="cpu", devices=devices))
    with pytest.raises(UserError, match=r"trainer.devices x trainer.num_nodes is 2, but .* not started by srun"):
        make_strategy(TrainerArgs(accelerator="cpu", num_nodes=2))
    in_slurm(TORCHELASTIC_RUN_ID="train")  # torchrun starts them
    make_strategy(TrainerArgs(accelerator="cpu", num_nodes=2))


def test_srun_starts_as_many_tasks_as_there_are_devices(in_slurm):
    in_slurm(SLURM_STEP_ID="0")
    disable_lightning_slurm()
    assert SLURMEnvironment.detect()
    make_strategy(TrainerArgs(accelerator="cpu", devices=4, num_nodes=2))
    with pytest.raises(UserError, match=r"srun started 8 tasks, but .* is 1; make them equal \(srun --ntasks 1\)"):
        make_strategy(TrainerArgs(accelerator="cpu"))
    in_slurm(SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS="1")  # srun --ntasks 1 in a job of eight
    make_strategy(TrainerArgs(accelerator="cpu"))


@without_gpu
def test_auto_uses_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_accelerator(TrainerArgs()) == "cpu"


@pytest.mark.parametrize("accelerator", ["auto", "mps"])
def test_an_apple_gpu_is_used_by_one_process(accelerator, fake_mps):
    args = TrainerArgs(accelerator=accelerator)
    assert resolve_accelerator(args) == "mps"
    strategy = make_strategy(args)
    assert isinstance(strategy, SingleDeviceStrategy) and strategy.root_device == torch.device("mps", 0)


def test_several_processes_use_the_cpu_by_auto_on_a_mac_and_are_refused_on_mps(fake_mps):
    assert resolve_accelerator(TrainerArgs(devices=2)) == "cpu"
    for settings in ({"devices": 2}, {"strategy": "deepspeed_stage_2"}):
        with pytest.raises(UserError, match=r"mps.*trainer.accelerator=cpu|needs Linux"):
            make_strategy(TrainerArgs(accelerator="mps", **settings))


def test_mps_where_there_is_no_apple_gpu_is_an_error_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"trainer.accelerator=mps, but .* use auto or cpu"):
        make_strategy(TrainerArgs(accelerator="mps"))
    recipe = load_recipe(["recipe=ranker_lora", "trainer.accelerator=mps"])
    with pytest.raises(UserError, match=r"trainer\.accelerator=mps"):
        make_device_trainer(recipe, tmp_path, 1)


@without_gpu
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_where_there_is_none_is_an_error_with_a_remedy(accelerator):
    with pytest.raises(UserError, match="no GPU here; use auto or cpu"):
        make_strategy(TrainerArgs(accelerator=accelerator))


@pytest.mark.parametrize("accelerator", ["tpu", "cpuu"])
def test_an_unsupported_accelerator_is_an_error_that_lists_the_supported(accelerator):
    with pytest.raises(UserError, match=f"trainer.accelerator={accelerator}: must be one of auto, cpu, gpu, cuda, mps"):
        TrainerArgs(accelerator=accelerator)


@pytest.mark.gpu
def test_auto_uses_the_gpu():
    assert resolve_accelerator(TrainerArgs()) == "cuda"
    assert make_strategy(TrainerArgs()).root_device == torch.device("cuda", 0)


class _Halves(L.LightningModule):
    """Two weights, of which a step uses the first, and the second only on request."""

    def __init__(self, both: bool):
        super().__init__()
        self.both = both
        self.first, self.second = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: torch.Tensor, _) -> torch.Tensor:
        return (batch * self.first * (self.second if self.both else 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("both", "strategy"), [(True, "ddp"), (False, "ddp"), (False, "auto")])
def test_under_ddp_an_idle_parameter_is_an_error_that_names_it(both, strategy, tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    trainer = L.Trainer(
        strategy=make_strategy(TrainerArgs(accelerator="cpu", strategy=strategy)), accelerator="cpu", max_steps=3,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=[CheckGradients()],
        default_root_dir=tmp_path,
    )  # fmt: skip
    data = torch.utils.data.DataLoader(torch.ones(6, 1))
    if both or strategy == "auto":
        trainer.fit(_Halves(both), data)
        assert trainer.global_step == 3
    else:
        with pytest.raises(UserError, match=r"1 of 2 trained parameters .* such as second, .*target_modules"):
            trainer.fit(_Halves(both), data)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
