"""Paths that a saved recipe names outside its folder: those that this user gave before are used, others asked for.

A run or a memory may come from elsewhere, and its recipe then could have any folder read and written. What a user gave
for a key is remembered in ``$XDG_DATA_HOME/rar-train/paths`` (``~/.local/share``), a small file a pair, or without a
home in the temporary folder: a run can be moved, copied and evaluated on every machine that shares the home, and
nothing in a run says that it is trusted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.files import write_text
from data_prep.settings import check
from data_prep.settings.values import leaves, texts

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


def _stores() -> list[Path]:
    """Where paths are remembered, the first that can be written: the user's data, or a folder of the user's own in the
    temporary folder, for a user without a home, as containers have."""
    stores = [Path(tempfile.gettempdir()) / f"rar-train-{os.getuid()}"]
    with suppress(RuntimeError):  # there is no home
        stores.insert(0, Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "rar-train")
    return stores


def _kept(store: Path, key: str, path: Path) -> Path:
    """The file that says that a path was given for a key."""
    return store / "paths" / hashlib.sha256(_line(key, path).encode()).hexdigest()[:32]


def _is_own(store: Path) -> bool:
    """Whether a folder is this user's alone to write, unlike one that somebody else put into the temporary folder."""
    try:
        found = store.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _is_known(key: str, path: Path) -> bool:
    return any(_is_own(store) and _kept(store, key, path).is_file() for store in _stores())


def remember(values: dict[str, Any], folder: Path) -> None:
    """Remembers the paths of a recipe that the user gave."""
    asked = [(key, path) for key, paths in outside(values, folder).items() for path in paths]
    for key, path in asked:
        if not _is_known(key, path):
            _remember(key, path)


def _remember(key: str, path: Path) -> None:
    reasons = []
    for store in _stores():
        try:
            store.mkdir(mode=0o700, parents=True, exist_ok=True)
            check(_is_own(store), f"{store}: not this user's alone")
            write_text(_kept(store, key, path), f"{_line(key, path)}\n")
            return
        except (OSError, UserError) as error:
            reasons.append(str(error))
    log.warning("can't remember %s=%s (%s): commands will ask for it again", key, path, "; ".join(reasons))


def check_outside(path: Path, values: dict[str, Any], given: set[str]) -> None:
    """Checks that a saved recipe names no path outside its folder that the user has not given before.

    Args:
        path: The recipe's file.
        values: Its content.
        given: Keys whose values are given now, in place of the recipe's.

    Raises:
        UserError: It does.
    """
    asked = {
        key: paths
        for key, paths in outside(values, path.parent).items()
        if key not in given and not all(_is_known(key, one) for one in paths)
    }
    if asked:
        shown = "; ".join(f"{key}: {', '.join(map(str, paths))}" for key, paths in asked.items())
        raise UserError(
            f"{path}: comes from elsewhere, as far as is known here, and names paths outside its folder: {shown}. "
            f"Give them, or others, as settings: {' '.join(f'{key}={_shown(leaves(values)[key])}' for key in asked)}"
        )


def _shown(value: Any) -> str:
    return shlex.quote(value) if isinstance(value, str) else "…"
