"""Fixtures shared by all tests: a small recipe, and the commands as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.commands import call, call_here

# As many threads here as in the started commands: results are compared bit for bit.
os.environ["OMP_NUM_THREADS"] = "1"
# GNU readline sets these for the processes that pytest starts; tables would take that terminal's width.
for variable in ("COLUMNS", "LINES"):
    os.environ.pop(variable, None)
# Processes that a shell runs in the background ignore Ctrl-C, and so would every command that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A property must not fail because the machine is busy.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# Small enough to run in seconds, large enough that every stage has something to do.
SMALL = (
    "data.armory.train_classes=12",
    "data.armory.val_classes=8",
    "data.armory.test_classes=12",
    "data.armory.train_images=4",
    "data.armory.memory_images=6",
    "data.armory.query_images=2",
    "optim.batch_size=4",
    "optim.max_steps=6",
    "trainer.checkpoint_every=2",
    "trainer.val_examples=4",
    "trainer.val_generate_examples=1",
    "eval.shots=[2]",
    "eval.seeds=[1,2]",
    "eval.ranker_only_images=6",
    "eval.bootstrap=200",
)


@pytest.fixture(scope="session", autouse=True)
def _trusted_paths(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps the paths of the tests out of the user's list of trusted paths."""
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data-home"))


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Settings of a small run."""
    return SMALL


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache shared by the tests that do not test the cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command in the test's own folder."""
    return partial(call, tmp_path)


@pytest.fixture
def run_here(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command in this process, for tests of what a command does rather than how it starts."""
    return partial(call_here, tmp_path)
