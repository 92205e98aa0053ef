"""Killed in the middle and started again: goes on, with the same result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import command_line, environment


def kill_when(
    folder: Path, due: Callable[[], bool], module: str, *arguments: str, by: int = signal.SIGKILL
) -> subprocess.CompletedProcess:
    """Starts a command and stops it, children and all, as soon as a condition holds: dead at once, or asked to."""
    process = subprocess.Popen(
        command_line(module, *arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 300
    while not due():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.005)
    os.killpg(process.pid, by)
    _, said = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, "", said)


def check_goes_on(stopped: subprocess.CompletedProcess) -> None:
    """What was asked to end says so and how to go on, and no traceback of any of its processes."""
    assert stopped.returncode == 130 and "Traceback" not in stopped.stderr, stopped.stderr
    last = stopped.stderr.splitlines()[-1]
    assert last.startswith("interrupted") and "same command goes on" in last


@pytest.fixture(scope="module")
def settings(small, shared_cache) -> tuple[str, ...]:
    return (*small, "tracking.wandb=disabled", f"cache={shared_cache}")


def test_killed_in_training_it_resumes_to_the_same_adapter(run_here, settings, tmp_path: Path):
    # Long enough that the kill comes before the end, with dropout so that random state matters.
    arguments = ("recipe=ranker_lora", *settings, "optim.max_steps=12", "optim.epochs=2", "ranker.lora.dropout=0.1")
    run_here("rar_train.fit", *arguments, "out=whole")
    checkpoints = tmp_path / "killed" / "checkpoints"
    fit, due = ("rar_train.fit", *arguments, "out=killed"), "step-{:08d}.ckpt".format
    check_goes_on(kill_when(tmp_path, (checkpoints / due(2)).exists, *fit, by=signal.SIGTERM))
    kill_when(tmp_path, (checkpoints / due(4)).exists, *fit)
    check_goes_on(kill_when(tmp_path, (checkpoints / due(8)).exists, *fit, by=signal.SIGINT))
    assert not (tmp_path / "killed" / "adapter").exists()
    resumed = run_here("rar_train.fit", *arguments, "out=killed")
    assert "from step" in resumed.stderr
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        whole, killed = (tmp_path / run / "adapter" / file for run in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes(), file


def test_killed_in_drawing_and_mining_it_makes_the_same_examples(run_here, small, tmp_path: Path):
    arguments = ("recipe=ranker_lora", *small, "tracking.wandb=disabled", "out=run")
    run_here("data_prep.build", *arguments, "cache=whole")
    killed = tmp_path / "killed"
    build = ("data_prep.build", *arguments, "cache=killed")
    drawn = kill_when(tmp_path, lambda: any(killed.glob(".armory-*.part/*/*.png")), *build, by=signal.SIGINT)
    check_goes_on(drawn)
    assert not list(killed.glob("armory-*")), "a half-drawn data set passes for a whole one"
    kill_when(tmp_path, lambda: any(killed.glob("embeddings-*")), *build)
    kill_when(tmp_path, lambda: any(killed.glob(".examples-*.part/*.tar")), *build)
    run_here(*build)
    shards = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / cache).glob("examples-*/*"))}
        for cache in ("whole", "killed")
    ]
    assert shards[0] == shards[1] != {}


def test_killed_in_evaluation_it_goes_on_to_the_same_results(fitted: Path, run_here, tmp_path: Path):
    arguments = (
        "--ckpt",
        "run",
        "--mode",
        "generate",
        "eval.batch_size=2",
        "eval.ranker_only_images=0",
        "eval.seeds=[1]",
    )
    arguments += ("eval.zero_shot=false",)
    results = fitted / "eval" / "test-generate"

    def answered() -> int:
        return sum(len(path.read_bytes().splitlines()) for path in results.glob("answers-*/*.jsonl"))

    check_goes_on(kill_when(tmp_path, lambda: answered() >= 4, "eval.run", *arguments, by=signal.SIGTERM))
    assert not (results / "results.json").exists()
    before = answered()
    resumed = run_here("eval.run", *arguments)
    assert "answers are there" in resumed.stderr
    assert answered() > before
    predictions, rows = (results / "predictions.jsonl").read_bytes(), json.loads((results / "results.json").read_text())
    for path in results.glob("answers-*/*.jsonl"):
        path.unlink()
    run_here("eval.run", *arguments)
    assert (results / "predictions.jsonl").read_bytes() == predictions
    assert json.loads((results / "results.json").read_text()) == rows
