"""Trainers of stages that predict, however the command was launched."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment

from data_prep.distributed.spawning import make_predict_trainer


@pytest.mark.parametrize("variable", ["NODE_RANK", "GROUP_RANK"])
def test_processes_of_one_machine_count_from_zero_whatever_machine_it_is(variable, monkeypatch):
    monkeypatch.setenv(variable, "1")
    trainer = make_predict_trainer("cpu", 2)
    assert (trainer.node_rank, trainer.global_rank, trainer.world_size) == (0, 0, 2)


def test_one_process_is_alone_under_a_launcher(monkeypatch):
    # A task of srun without SLURM_NTASKS_PER_NODE, which Lightning's environment of SLURM would refuse.
    for name, value in (("JOB_NAME", "x"), ("NTASKS", "2"), ("PROCID", "1"), ("LOCALID", "1"), ("STEP_ID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    trainer = make_predict_trainer("cpu", 1)
    assert (trainer.global_rank, trainer.world_size, trainer.strategy.root_device) == (0, 1, torch.device("cpu"))
    assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
