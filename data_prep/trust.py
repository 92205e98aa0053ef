"""Paths that a saved recipe names outside its folder: those that this user gave before are used, others asked for.

A run or a memory may come from elsewhere, and its recipe then could have any folder read and written. What a user gave
for a key is remembered in ``$XDG_DATA_HOME/rar-train/paths`` (``~/.local/share``), a small file a pair: a run
can be moved, copied and evaluated on every machine that shares the home, and nothing in a run says that it is trusted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import write_text
from data_prep.recipe_values import leaves, texts

log = logging.getLogger(__name__)


def outside(values: dict[str, Any], folder: Path) -> dict[str, list[Path]]:
    """The paths of a recipe that lie neither in a folder nor, being relative, in the working folder.

    Args:
        values: The recipe. Its ``out`` is left out: a saved recipe is used where it lies.
        folder: The recipe's own.

    Returns:
        dict[str, list[Path]]: Absolute paths by key.
    """
    found: dict[str, list[Path]] = {}
    for key, value in leaves(values).items():
        for text in texts(value) if key != "out" else ():
            named = Path(text.removeprefix("local-dir:"))
            path, homes = named.resolve(), (folder,) if named.is_absolute() else (folder, Path())
            if not any(path.is_relative_to(home.resolve()) for home in homes):
                found.setdefault(key, []).append(path)
    return found


def _line(key: str, path: Path) -> str:
    return f"{key}={path}".encode("utf-8", "backslashreplace").decode()


def _kept(key: str, path: Path) -> Path:
    """The file that says that a path was given for a key."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "rar-train" / "paths" / hashlib.sha256(_line(key, path).encode()).hexdigest()[:32]


def remember(values: dict[str, Any], folder: Path) -> None:
    """Remembers the paths of a recipe that the user gave."""
    try:
        for key, paths in outside(values, folder).items():
            for path in paths:
                if not (kept := _kept(key, path)).is_file():
                    write_text(kept, f"{_line(key, path)}\n")
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        log.warning("can't remember the paths that were given (%s): commands will ask for them again", error)


def check_outside(path: Path, values: dict[str, Any], given: set[str]) -> None:
    """Checks that a saved recipe names no path outside its folder that the user has not given before.

    Args:
        path: The recipe's file.
        values: Its content.
        given: Keys whose values are given now, in place of the recipe's.

    Raises:
        UserError: It does.
    """
    try:
        asked = {
            key: paths
            for key, paths in outside(values, path.parent).items()
            if key not in given and not all(_kept(key, one).is_file() for one in paths)
        }
    except RuntimeError as error:
        raise UserError(
            f"{path}: whether its paths were given before is not known ({error}); set XDG_DATA_HOME"
        ) from None
    if asked:
        shown = "; ".join(f"{key}: {', '.join(map(str, paths))}" for key, paths in asked.items())
        raise UserError(
            f"{path}: comes from elsewhere, as far as is known here, and names paths outside its folder: {shown}. "
            f"Give them, or others, as settings: {' '.join(f'{key}={_shown(leaves(values)[key])}' for key in asked)}"
        )


def _shown(value: Any) -> str:
    return shlex.quote(value) if isinstance(value, str) else "…"
