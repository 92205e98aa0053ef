"""What the tests share: a small recipe, and the commands as a user runs them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import command_line, environment

# Small enough for seconds, large enough that every stage has something to do.
SMALL = (
    "data.armory.tuning_classes=12",
    "data.armory.development_classes=8",
    "data.armory.test_classes=12",
    "data.armory.tuning_images=4",
    "data.armory.memory_images=6",
    "data.armory.query_images=2",
    "optim.batch_size=4",
    "optim.max_steps=6",
    "trainer.checkpoint_every=2",
    "trainer.validation_images=8",
    "trainer.validation_text=2",
    "eval.shots=[2]",
    "eval.seeds=[1,2]",
    "eval.alone_images=6",
    "eval.bootstrap=200",
)


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Settings of a small run."""
    return SMALL


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the tests that do not test the cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command in an empty folder; a failure that is not expected shows what it printed."""

    def run(module: str, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess:
        done = subprocess.run(
            command_line(module, *arguments, *(() if fails else ("--debug",))),
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        if (done.returncode != 0) != fails:
            raise AssertionError(f"exit {done.returncode} of {module} {arguments}\n{done.stdout}\n{done.stderr}")
        return done

    return run
