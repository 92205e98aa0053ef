"""Commands that are killed and started again resume, and give the same result."""

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
    folder: Path, condition: Callable[[], bool], module: str, *arguments: str, sent: int = signal.SIGKILL
) -> subprocess.CompletedProcess:
    """Starts a command and sends a signal to it and its children as soon as a condition holds."""
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
    while not condition():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < end, "the condition was never true"
        time.sleep(0.005)
    os.killpg(process.pid, sent)
    _, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, "", stderr)


def check_interrupted(stopped: subprocess.CompletedProcess) -> None:
    """Checks that an interrupted command says how to go on, without a traceback of any of its processes."""
    assert stopped.returncode == 130, stopped.stderr
    # An interrupt inside Python's own hook for forks is only reported by it, and passed on all the same.
    assert "Traceback" not in stopped.stderr.partition("Exception ignored in")[0], stopped.stderr
    last = stopped.stderr.splitlines()[-1]
    assert last.startswith("interrupted") and "same command resumes" in last


@pytest.fixture(scope="module")
def settings(small, shared_cache) -> tuple[str, ...]:
    return (*small, "tracking.wandb=disabled", f"cache={shared_cache}")


def test_training_resumes_after_a_kill_to_the_same_adapter(run_here, settings, tmp_path: Path):
    # Long enough that the kill comes before the end, with dropout so that random state matters.
    arguments = ("recipe=ranker_lora", *settings, "optim.max_steps=12", "optim.epochs=2", "ranker.lora.dropout=0.1")
    run_here("rar_train.fit", *arguments, "out=reference")
    checkpoints = tmp_path / "killed" / "checkpoints"
    fit, checkpoint_name = ("rar_train.fit", *arguments, "out=killed"), "step-{:08d}.ckpt".format
    check_interrupted(kill_when(tmp_path, (checkpoints / checkpoint_name(2)).exists, *fit, sent=signal.SIGTERM))
    kill_when(tmp_path, (checkpoints / checkpoint_name(4)).exists, *fit)
    check_interrupted(kill_when(tmp_path, (checkpoints / checkpoint_name(8)).exists, *fit, sent=signal.SIGINT))
    assert not (tmp_path / "killed" / "adapter").exists()
    resumed = run_here("rar_train.fit", *arguments, "out=killed")
    assert "from step" in resumed.stderr
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        reference, killed = (tmp_path / run / "adapter" / file for run in ("reference", "killed"))
        assert reference.read_bytes() == killed.read_bytes(), file


def test_mining_resumes_after_a_kill_to_the_same_examples(run_here, small, tmp_path: Path):
    arguments = ("recipe=ranker_lora", *small, "tracking.wandb=disabled", "out=run")
    run_here("data_prep.build", *arguments, "cache=reference")
    killed = tmp_path / "killed"
    build = ("data_prep.build", *arguments, "cache=killed")
    interrupted = kill_when(tmp_path, lambda: any(killed.glob(".armory-*.part/*/*.png")), *build, sent=signal.SIGINT)
    check_interrupted(interrupted)
    assert not list(killed.glob("armory-*")), "an incomplete data set is taken for a complete one"
    kill_when(tmp_path, lambda: any(killed.glob("embeddings-*")), *build)
    kill_when(tmp_path, lambda: any(killed.glob(".examples-*.part/*.tar")), *build)
    run_here(*build)
    shards = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / cache).glob("examples-*/*"))}
        for cache in ("reference", "killed")
    ]
    assert shards[0] == shards[1] != {}


def test_evaluation_resumes_after_a_kill_to_the_same_results(fitted: Path, run_here, tmp_path: Path):
    arguments = (
        "--ckpt",
        "run",
        "--mode",
        "generate",
        "--name",
        "killed",
        "eval.batch_size=2",
        "eval.ranker_only_images=0",
        "eval.seeds=[1]",
    )
    arguments += ("eval.zero_shot=false",)
    results = fitted / "eval" / "killed"

    def count_answers() -> int:
        return sum(len(path.read_bytes().splitlines()) for path in results.glob("answers-*/*.jsonl"))

    killed = (*arguments, "trainer.num_workers=1")
    check_interrupted(kill_when(tmp_path, lambda: count_answers() >= 4, "eval.run", *killed, sent=signal.SIGTERM))
    assert not (results / "results.json").exists()
    before = count_answers()
    resumed = run_here("eval.run", *arguments)
    assert "answers are there" in resumed.stderr
    assert count_answers() > before
    predictions = (results / "predictions.jsonl.gz").read_bytes()
    rows = json.loads((results / "results.json").read_text())
    for path in results.glob("answers-*/*.jsonl"):
        path.unlink()
    run_here("eval.run", *arguments)
    assert (results / "predictions.jsonl.gz").read_bytes() == predictions
    assert json.loads((results / "results.json").read_text()) == rows
