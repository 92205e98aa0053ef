"""The commands as a user calls them."""

from __future__ import annotations

import os
import sys


def command_line(module: str, *arguments: str) -> list[str]:
    """What a user types, with this environment's Python."""
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """A user's environment: no network for models, and not the test runner's processes."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "WANDB", "COV"))}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}
