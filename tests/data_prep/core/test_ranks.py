"""Processes that a launcher started, found by its environment variables."""

from __future__ import annotations

import os
import socket

import pytest

from data_prep.core.errors import UserError
from data_prep.core.ranks import launch_key, launched_processes

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2"}


@pytest.fixture
def launched(monkeypatch):
    """Sets the variables of a launcher, and no others."""

    def set_variables(environment: dict[str, str]) -> None:
        for name in os.environ:
            if name.startswith(("TORCHELASTIC_", "SLURM_", "MASTER_", "GROUP_")):
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    "environment",
    [
        TORCHRUN | {"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "6"},
        TORCHRUN | {"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "6", "GROUP_WORLD_SIZE": "2"},
        TORCHRUN | {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6", "GROUP_WORLD_SIZE": "2"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "5"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "3,1"},
    ],
)
def test_machines_with_different_numbers_of_processes_are_an_error(environment, launched):
    launched(environment)
    with pytest.raises(UserError, match=r"started \d processes on \d machines, not the same number on each"):
        launched_processes()


@pytest.mark.parametrize(
    "environment",
    [
        TORCHRUN | {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
    ],
)
def test_machines_with_equal_numbers_of_processes_are_counted(environment, launched):
    launched(environment)
    assert launched_processes() == (2, 2)


def test_launches_of_one_machine_are_told_apart_by_its_name(launched, monkeypatch):
    launched(TORCHRUN)
    keys = []
    for host in ("one", "two"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        keys.append((launch_key(1), launch_key(2)))
    (alone_on_one, together_on_one), (alone_on_two, together_on_two) = keys
    assert alone_on_one != alone_on_two and together_on_one == together_on_two
