"""Write errors as messages for users: what could not be written, why, what is not lost, and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from data_prep.core.errors import UserError
from data_prep.core.files import remove


@contextmanager
def write_errors(
    path: Path, part: Path | None = None, kept: str = "the checkpoints before it are kept"
) -> Iterator[None]:
    """Turns a failed write into a ``UserError``, and removes the incomplete file.

    Args:
        path: The file or folder being written.
        part: Its temporary path, to be removed, unless the writer removes it itself.
        kept: What is not lost, for the error message.

    Raises:
        UserError: The disk is full or not writable, or the folder is gone.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch's writer
        if part is not None:
            remove(part)
        reason = str(error).splitlines()[0]
        parent = next(folder for folder in path.absolute().parents if folder.is_dir())
        free = f"{shutil.disk_usage(parent).free / 1e9:.1f} GB are free"
        advice = f"Make room ({free}), or allow writing to {parent},"
        if isinstance(error, FileNotFoundError):
            advice = f"Of its path only {parent} is left ({free}): put the folder back,"
        raise UserError(
            f"{path}: could not be written ({reason}); {kept}. {advice} and give the same command again to go on"
        ) from None
