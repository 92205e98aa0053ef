"""Processes of one run: rank 0 runs first, and where one process fails the others exit soon, with its error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.multiprocessing import ProcessExitedException

import data_prep.distributed.processes
from data_prep.core.errors import UserError
from data_prep.core.files import write_json
from data_prep.core.ranks import global_rank
from data_prep.distributed.processes import Processes, process_group
from data_prep.distributed.spawning import spawn_errors
from data_prep.settings import Recipe, TrainerArgs

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from data_prep.distributed import processes
from data_prep.core.command import run_command
from data_prep.core.errors import UserError
from data_prep.settings import Recipe, TrainerArgs

processes._INTERRUPT_TIMEOUT = 1

def fails():
    raise UserError("data.root=nowhere: no such folder")

def killed():
    os.kill(os.getpid(), signal.SIGKILL)

def connection():
    time.sleep(1.5)  # closed because the other process ended
    raise RuntimeError("Connection closed by peer")

def stuck():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    time.sleep(60)

def main(arguments):
    rank, first, then = int(os.environ["RANK"]), *arguments
    does = {"works": lambda: time.sleep(2), "fails": fails, "killed": killed, "sleeps": lambda: time.sleep(60)}
    does |= {"connection": connection, "stuck": stuck, "ends": lambda: None}
    with processes.process_group(Recipe("ranker", cache="cache", out="run", trainer=TrainerArgs(devices=2))) as group:
        group.after_first("data", lambda: (does[first](), Path("made").write_text("")))
        assert Path("made").exists()
        Path(f"ready-{rank}").write_text("")
        while not all(Path(f"ready-{other}").exists() for other in range(2)):
            time.sleep(0.1)
        does[then.split(",")[rank]]()

sys.exit(run_command(main, ""))
"""


def launch(folder: Path, first: str, then: str, interrupted: int | None = None) -> list[tuple[int, str]]:
    """Runs two processes and returns each one's exit status and standard error.

    Args:
        folder: Where they run.
        first: What rank 0 does before the other continues.
        then: What each does after that, separated by a comma.
        interrupted: Rank of the process that is sent Ctrl-C once both are ready.
    """
    parent_environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, first, then],
            cwd=folder, env=parent_environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    if interrupted is not None:
        end = time.monotonic() + 30
        while len(list(folder.glob("ready-*"))) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        started[interrupted].send_signal(signal.SIGINT)
    messages = [process.communicate(timeout=40)[1] for process in started]
    return [(process.returncode, message) for process, message in zip(started, messages, strict=True)]


def test_other_ranks_wait_for_rank_0_despite_files_of_an_earlier_launch(tmp_path):
    assert [code for code, _ in launch(tmp_path, "fails", "ends,ends")] == [2, 2]
    assert [code for code, _ in launch(tmp_path, "works", "ends,ends")] == [0, 0]
    (tmp_path / "made").unlink()
    assert launch(tmp_path, "works", "ends,ends") == [(0, ""), (0, "")]


def test_if_rank_0_fails_the_others_exit_with_its_error(tmp_path):
    (_, first), (code, other) = launch(tmp_path, "fails", "ends,ends")
    assert first.splitlines()[-1] == "error: data.root=nowhere: no such folder"
    assert code == 2
    assert "error: process 0 of 2 (number" in other and "ended: data.root=nowhere: no such folder" in other


@pytest.mark.parametrize(
    ("then", "code", "message"),
    [
        ("killed,sleeps", 2, "process 0 of 2 (number"),
        ("sleeps,killed", 2, "process 1 of 2 (number"),
        ("connection,killed", 2, "was killed or crashed; if memory ran out, lower optim.batch_size"),
        ("stuck,fails", 1, "ended: data.root=nowhere: no such folder; this process, 0, ends too"),
    ],
)
def test_if_one_process_is_gone_the_other_exits_soon_and_names_it(then, code, message, tmp_path):
    began = time.monotonic()
    ends = launch(tmp_path, "ends", then)
    assert time.monotonic() - began < 30
    survivor = 1 - next(rank for rank, does in enumerate(then.split(",")) if does in ("killed", "fails"))
    assert ends[survivor][0] == code
    assert message in ends[survivor][1]


def test_an_interrupted_process_keeps_its_own_message(tmp_path):
    (code, interrupted), (other_code, other) = launch(tmp_path, "ends", "sleeps,sleeps", interrupted=0)
    assert code == 130 and interrupted.strip().startswith("interrupted; the same command resumes")
    assert other_code == 2 and "process 0 of 2" in other and "it was interrupted" in other


def state(machine: str, pid: int = 1, launch: str = "its", failed: str | None = None) -> dict:
    """Returns the content of a process's state file."""
    return {"launch": launch, "pid": pid, "machine": machine, "done": [], "ended": False, "failed": failed}


def ended_pid() -> int:
    """Returns the pid of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_time_without_the_disk_does_not_count_as_silence_of_other_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(data_prep.distributed.processes, "_SILENCE_TIMEOUT", 1)
    write_json(tmp_path / "0.json", state("node7 pid:[1]"))
    second = Processes(tmp_path, 1, 2)
    second.start()
    second._over.set()
    second._thread.join()  # as if it hung in a check
    second._heartbeats.clear()
    assert second._check_others() is None
    time.sleep(1.2)
    assert second._check_others() is None


def test_machines_with_the_same_host_name_are_told_apart(tmp_path):
    host, *identity = data_prep.distributed.processes._machine_id().split()
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in identity
    write_json(tmp_path / "0.json", state(f"{host} another-boot {identity[-1]}", ended_pid()))
    second = Processes(tmp_path, 1, 2)
    second.start()
    assert second._check_others() is None
    second.end()


def test_state_files_of_an_earlier_launch_are_ignored(tmp_path):
    first, here = Processes(tmp_path, 0, 2), data_prep.distributed.processes._machine_id()
    first.start()
    message = "process 0 of 2 (number 7 on here) was killed or crashed"
    for stale in (state(here, os.getpid(), "before", message), state(here, ended_pid(), "before")):
        write_json(tmp_path / "1.json", stale)
        assert first._check_others() is None
    write_json(tmp_path / "1.json", state(here, ended_pid(), first._state["launch"]))
    assert "process 1 of 2" in first._check_others()
    first.end()


def test_tasks_that_a_killed_launch_left_are_removed(tmp_path):
    for name in ("task-0.pickle", ".task-1.pickle.host-1-0.part"):
        (tmp_path / name).write_text("")
    for rank, left in ((1, 2), (0, 0)):
        processes = Processes(tmp_path, rank, 2)
        processes.start()
        processes.end()
        assert len(list(tmp_path.glob("*task-*"))) == left


def test_a_process_exits_if_rank_0_was_started_again_without_it(tmp_path):
    here = data_prep.distributed.processes._machine_id()
    write_json(tmp_path / "0.json", state(here, os.getpid(), "before"))
    second = Processes(tmp_path, 1, 2)
    second.start()
    assert second._check_others() is None
    write_json(tmp_path / "0.json", state(here, os.getpid(), "after"))
    assert "process 0 of 2 was started again" in second._check_others()
    second._over.set()


def test_a_process_rewrites_its_state_file_before_it_continues(tmp_path):
    write_json(
        tmp_path / "0.json", state(data_prep.distributed.processes._machine_id(), os.getpid()) | {"done": ["data"]}
    )
    second = Processes(tmp_path, 1, 2)
    second.start()
    second._over.set()
    second._thread.join()
    (tmp_path / "1.json").unlink()  # as rank 0 does when it starts
    second.after_first("data", lambda: None)
    assert '"launch": "its"' in (tmp_path / "1.json").read_text()


def test_processes_are_still_identified_without_linux(monkeypatch):
    def missing(path, *_):
        raise FileNotFoundError(path)

    for name in ("readlink", "read_text", "read_bytes"):
        monkeypatch.setattr(Path, name, missing)
    assert data_prep.distributed.processes._machine_id() == data_prep.distributed.processes._machine_id()
    assert data_prep.distributed.processes._is_alive(os.getpid())
    assert not data_prep.distributed.processes._is_alive(ended_pid())


def test_a_process_on_another_machine_without_heartbeats_counts_as_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(data_prep.distributed.processes, "_SILENCE_TIMEOUT", 1)
    write_json(tmp_path / "0.json", state("node7 pid:[1]"))
    second = Processes(tmp_path, 1, 2)
    second.start()
    with pytest.raises(
        UserError, match=r"process 0 of 2 \(number 1 on node7\) has sent no heartbeat for 1 s"
    ) as caught:
        second.after_first("data", lambda: None)
    assert second.end(caught.value).args == caught.value.args


def test_a_single_process_writes_no_state_files(tmp_path):
    done = []
    with process_group(Recipe("ranker", cache=str(tmp_path / "cache"), out=str(tmp_path / "run"))) as processes:
        processes.after_first("data", lambda: done.append(1))
    assert done == [1] and not list(tmp_path.iterdir())


def test_a_launcher_that_starts_more_processes_than_the_recipe_asks_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    recipe = Recipe("ranker", cache=str(tmp_path), out=str(tmp_path / "run"), trainer=TrainerArgs())
    refused = r"a launcher started this as process 1, but trainer\.devices=1 .* asks for 1 in all"
    with pytest.raises(UserError, match=refused), process_group(recipe):
        pass


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "1"}, 1),
        ({"LOCAL_RANK": "1", "NODE_RANK": "2"}, 9),
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, 8),
        ({"SLURM_PROCID": "8", "SLURM_LOCALID": "0"}, 8),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "3"}, 3),  # started by Lightning, in a SLURM shell
    ],
)
def test_each_process_knows_its_rank_under_every_launcher(environment, rank, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert global_rank(4) == rank


def test_a_spawned_process_that_was_killed_is_named():
    killed = ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 5, -9, "SIGKILL")
    with (
        pytest.raises(UserError, match="process 1 terminated with signal SIGKILL; the same command resumes"),
        spawn_errors(),
    ):
        raise killed


def test_folders_of_launches_that_ended_a_day_ago_are_removed(tmp_path):
    ended, running = tmp_path / "ended", tmp_path / "running"
    for folder in (ended, running):
        write_json(folder / "0.json", state("here"))
        os.utime(folder / "0.json", (time.time() - 100_000,) * 2)
        os.utime(folder, (time.time() - 100_000,) * 2)
    os.utime(running / "0.json")  # its last heartbeat
    processes = Processes(tmp_path / "this", 0, 2)
    processes.start()
    processes.end()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["running", "this"]
