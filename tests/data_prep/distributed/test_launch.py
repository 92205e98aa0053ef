"""Commands on the processes of a launcher: the first runs the command, the others join its tasks and end with it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.core.ranks import launched_processes
from data_prep.distributed.launch import read_task, run_on_all, run_on_first, shared_processes

PROGRAM = """
import os, sys
from functools import partial
from pathlib import Path
from data_prep.core.command import run_command
from data_prep.core.errors import UserError
from data_prep.distributed.launch import run_on_all, run_on_first, shared_processes

def write(name, fails):
    Path(f"{name}-{os.environ['RANK']}").write_text("")
    while len(list(Path().glob(f"{name}-*"))) < 2:
        pass
    if fails == os.environ["RANK"]:
        raise UserError("lost.png: no such image")

def command(fails):
    print(shared_processes())
    run_on_all(partial(write, "first", fails))
    run_on_all(partial(write, "second", ""))

def main(arguments):
    run_on_first(lambda: command(*arguments), Path("cache"))

if __name__ == "__main__":
    sys.exit(run_command(main, ""))
"""
TORCHRUN = {"TORCHELASTIC_RUN_ID": "t", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_WORLD_SIZE": "1"}


def launch(folder: Path, fails: str) -> list[tuple[int, str, str]]:
    """Runs the program as two launches of torchrun do; returns each one's exit status and output."""
    (folder / "program.py").write_text(PROGRAM)
    environment = os.environ | TORCHRUN | {"PYTHONPATH": str(Path(__file__).parents[3]), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "program.py", fails], cwd=folder, text=True,
            env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in started]
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


def test_all_processes_run_the_tasks_and_the_first_alone_the_command(tmp_path):
    assert launch(tmp_path, "none") == [(0, "(1, 2)\n", ""), (0, "", "")]
    names = {f"{name}-{rank}" for name in ("first", "second") for rank in range(2)}
    assert names < {path.name for path in tmp_path.iterdir()}
    assert not list(tmp_path.rglob("task-*"))


@pytest.mark.parametrize("fails", ["0", "1"])
def test_a_task_that_fails_on_one_process_ends_the_others_with_its_error(fails, tmp_path):
    results = launch(tmp_path, fails)
    assert [code for code, *_ in results] == [2, 2]
    (_, _, own), (_, _, other) = results[int(fails)], results[1 - int(fails)]
    assert own.splitlines()[-1] == "error: lost.png: no such image"
    assert f"error: process {fails} of 2 (number" in other and other.endswith("lost.png: no such image\n")


def test_without_a_launcher_tasks_run_here(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)
    calls: list[object] = []
    run_on_first(lambda: run_on_all(lambda: calls.append(shared_processes())), Path("cache"))
    assert calls == [None]


@pytest.mark.parametrize("rank", ["RANK", "SLURM_PROCID", "NODE_RANK"])
def test_a_command_that_shares_nothing_runs_once_under_a_launcher(rank, monkeypatch, caplog):
    calls: list[str] = []
    for value in ("0", "1"):
        monkeypatch.setenv(rank, value)
        run_on_first(lambda: calls.append(os.environ[rank]))
    assert calls == ["0"]
    assert "the first process does the work" in caplog.text


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "t", "LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "16"}, (8, 2)),
        ({"TORCHELASTIC_RUN_ID": "t", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "1"}, None),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "2"}, None),  # a batch script, not srun
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_STEP_ID": "0"}, (4, 2)),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
    ],
)
def test_the_number_of_processes_that_a_launcher_started_is_known(environment, processes, monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", *(name for name in os.environ if name.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched_processes() == processes


def test_a_task_that_others_may_have_written_is_not_read(tmp_path):
    path = tmp_path / "task-0.pickle"
    path.write_bytes(pickle.dumps(print))
    path.chmod(0o664)
    with pytest.raises(UserError, match=r"task-0\.pickle: not written by this user alone; give cache=FOLDER"):
        read_task(path)
    path.chmod(0o600)
    assert read_task(path) is print
