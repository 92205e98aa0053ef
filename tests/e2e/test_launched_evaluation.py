"""Evaluations on several processes: of a launcher or spawned, to the bytes of one process, and ended by a signal."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.commands import command_line, environment
from tests.launchers import launch, srun, start, torchrun

pytestmark = pytest.mark.slow

SETTINGS = ("--ckpt", "run", "eval.batch_size=2", "eval.seeds=[1]")
RUN = (
    "eval.run",
    "--name",
    "launched",
    *SETTINGS,
    "ranker.mode=letters",
    "eval.permutations=2",
    "eval.ranker_only_images=3",
)
COMMANDS = {
    RUN: "run/eval/launched/predictions.jsonl.gz",
    ("eval.discover", "--name", "launched", *SETTINGS, "discover.sentences=none"): (
        "run/discover/launched/predictions.jsonl"
    ),
    ("eval.detection", "--name", "launched", *SETTINGS, "detection.scenes.frequent=4"): (
        "run/detection/launched/detections-rar.json"
    ),
}


def result_folder(folder: Path) -> Path:
    return folder / "run" / "eval" / "launched"


def wait_for_answers(folder: Path, process: int) -> None:
    """Waits until a process has written answers."""
    end = time.monotonic() + 300
    while not list(result_folder(folder).glob(f"answers-*/*.part-{process}.jsonl")):
        assert time.monotonic() < end, f"process {process} ranks nothing"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("command", "launcher"), [(command, torchrun if command == RUN else srun) for command in COMMANDS]
)
def test_two_launches_rank_to_the_bytes_of_one_process(
    command: tuple[str, ...], launcher: Callable, fitted: Path, run_command, tmp_path: Path
):
    module, *arguments = command
    result = tmp_path / COMMANDS[command]
    launch(launcher, tmp_path, module, *arguments, "trainer.num_workers=1")
    launched = result.read_bytes()
    shutil.rmtree(fitted / result.relative_to(fitted).parts[0])
    run_command(module, *arguments, "trainer.num_workers=0")
    assert result.read_bytes() == launched


@pytest.mark.parametrize("killed", [0, 1])
def test_a_launch_of_which_a_process_is_terminated_ends_and_is_resumed_by_one_process(
    killed: int, fitted: Path, run_command, tmp_path: Path
):
    module, *arguments = RUN
    processes = start(srun, tmp_path, module, *arguments, "eval.batch_size=1", "trainer.num_workers=1")
    wait_for_answers(tmp_path, 1)
    processes[killed].send_signal(signal.SIGTERM)
    messages = [process.communicate(timeout=120)[1].splitlines()[-1] for process in processes]
    assert processes[killed].returncode == 130 and messages[killed].startswith("interrupted")
    assert processes[1 - killed].returncode != 0
    assert f"process {killed} of 2" in messages[1 - killed] and "it was interrupted" in messages[1 - killed]
    resumed = run_command(module, *arguments, "eval.batch_size=1")
    assert "answers are there" in resumed.stderr
    predictions = (result_folder(tmp_path) / "predictions.jsonl.gz").read_bytes()
    shutil.rmtree(fitted / "eval")
    run_command(module, *arguments, "eval.batch_size=1")
    assert (result_folder(tmp_path) / "predictions.jsonl.gz").read_bytes() == predictions


def test_sigterm_to_the_command_ends_its_spawned_processes_and_their_workers(fitted: Path, tmp_path: Path):
    module, *arguments = RUN
    process = subprocess.Popen(
        command_line(module, *arguments, "eval.batch_size=1", "trainer.devices=2", "trainer.num_workers=1"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_answers(tmp_path, 1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "interrupted; the same command resumes" in stderr and "Traceback" not in stderr
    assert len(children) >= 4 and not psutil.wait_procs(children, timeout=30)[1]
