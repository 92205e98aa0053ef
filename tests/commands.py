"""The commands as a user calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def command_line(module: str, *arguments: str) -> list[str]:
    """What a user types, with this environment's Python."""
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """A user's environment: no network for models, and not the test runner's processes."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "WANDB", "COV"))}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}


def call(folder: Path, module: str, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess:
    """Runs a command in a folder; a failure that is not expected shows what it printed."""
    done = subprocess.run(
        command_line(module, *arguments, *(() if fails else ("--debug",))),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    if (done.returncode != 0) != fails:
        raise AssertionError(f"exit {done.returncode} of {module} {arguments}\n{done.stdout}\n{done.stderr}")
    return done
