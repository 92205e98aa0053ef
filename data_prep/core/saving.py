"""Errors of writes: what could not be written, why, what is not lost, and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from data_prep.core.errors import UserError
from data_prep.core.files import remove


@contextmanager
def write_errors(what: Path, part: Path | None = None, kept: str = "the checkpoints before it stand") -> Iterator[None]:
    """Turns a write that fails into an error that says so, and takes away what it left.

    Args:
        what: The file or folder.
        part: Its temporary name, where that is not taken away already.
        kept: What is not lost, for the error.

    Raises:
        UserError: The disk is full or refuses, or the folder is gone.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch's writer
        if part is not None:
            remove(part)
        reason = str(error).splitlines()[0]
        there = next(folder for folder in what.absolute().parents if folder.is_dir())
        free = f"{shutil.disk_usage(there).free / 1e9:.1f} GB are free"
        advice = f"Make room ({free}), or allow writing to {there},"
        if isinstance(error, FileNotFoundError):
            advice = f"Of its path only {there} is left ({free}): put the folder back,"
        raise UserError(
            f"{what}: could not be written ({reason}); {kept}. {advice} and give the same command again to go on"
        ) from None
