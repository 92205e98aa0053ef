"""The number of data-loading workers follows the machine's cores and devices."""

from __future__ import annotations

import pytest
import torch

from data_prep.core.errors import UserError
from data_prep.distributed import devices
from data_prep.distributed.devices import resolve_workers
from data_prep.settings import TrainerArgs
from data_prep.settings.loading import load_recipe


@pytest.fixture
def machine(monkeypatch):
    """Makes this a machine with a number of cores, with or without a CUDA GPU."""

    def make(cores: int, gpu: bool) -> None:
        monkeypatch.setattr(devices, "available_cores", lambda: cores)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.delenv("SLURM_STEP_ID", raising=False)

    return make


@pytest.mark.parametrize(
    ("cores", "devices", "expected"),
    [(16, 1, 8), (16, 2, 7), (16, 4, 3), (128, 8, 8), (2, 1, 1), (1, 1, 0), (2, 4, 0)],
)
def test_auto_divides_the_cores_among_the_gpus(cores, devices, expected, machine):
    machine(cores, gpu=True)
    assert resolve_workers(TrainerArgs(devices=devices)) == expected


def test_srun_gives_each_process_its_own_cores(machine, monkeypatch):
    machine(6, gpu=True)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert resolve_workers(TrainerArgs(devices=8)) == 5


def test_without_a_gpu_auto_leaves_the_cores_to_the_model(machine):
    machine(16, gpu=False)
    assert resolve_workers(TrainerArgs()) == 0
    machine(16, gpu=True)
    assert resolve_workers(TrainerArgs(accelerator="cpu")) == 0


def test_a_number_is_taken_as_it_is(machine):
    machine(2, gpu=False)
    assert resolve_workers(load_recipe(["recipe=ranker_lora", "trainer.num_workers=3"]).trainer) == 3
    assert resolve_workers(load_recipe(["recipe=ranker_lora", "trainer.num_workers=auto"]).trainer) == 0


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "true", "null", "'2'"])
def test_any_other_value_is_refused(value):
    with pytest.raises(UserError, match=r"trainer\.num_workers"):
        load_recipe(["recipe=ranker_lora", f"trainer.num_workers={value}"])
