"""Trust in saved recipes: paths outside the recipe's folder, and code, are used only if this user gave them before.

A run or a memory may come from another machine, and its recipe could then make commands read and write any folder, or
run any ``module:function``. What a user gave for a key is remembered in ``$XDG_DATA_HOME/rar-train/paths``
(``~/.local/share``), one small file for each pair of key and path, or of key and function with the file of its module;
without a home in the temporary folder. So a run can be moved, copied and evaluated on every machine that shares the
home, and nothing inside a run can declare it trusted.
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
from data_prep.core.paths import split_prefix
from data_prep.extensions.finding import find_references, locate
from data_prep.settings import check
from data_prep.settings.values import flatten, iter_texts

log = logging.getLogger(__name__)

SERVER_KEYS = ("ranker.server.base_url", "ranker.server.adapter_url")
"""Keys of servers, to which images are sent: like paths outside."""

CODE_KEYS = ("data.name", "retriever.model", "retriever.name_model", "eval.metrics", "mining.mix")
"""Keys that may name a ``module:function``, which is run: like paths outside, wherever its file is."""

REMOTE_CODE = "retriever.trust_remote_code"
"""The key that lets the code of the retriever's models run: like a path outside where it is set."""


def paths_outside(values: dict[str, Any], folder: Path, base: Path = Path()) -> dict[str, list[str]]:
    """Finds the paths of a recipe that are neither in its folder nor, if relative, in the folder that they start from.

    Args:
        values: The recipe. Its ``out`` is ignored: a saved recipe is used from the folder that it is in.
        folder: The folder of the recipe.
        base: The folder that relative paths start from; by default the working folder.

    Returns:
        dict[str, list[str]]: Absolute paths, and servers' URLs as they are, by key; each ``module:function`` with the
        file that its module is in, and models whose own code may run. A function that is nowhere is left out, as
        nothing can be run.
    """
    outside_paths: dict[str, list[str]] = {}
    by_key = flatten(values)
    for key, value in by_key.items():
        if key == REMOTE_CODE and value:
            models = (by_key.get(f"retriever.{name}") for name in ("model", "name_model"))
            outside_paths[key] = [f"code of {model}" for model in models if model]
        if key in SERVER_KEYS and value is not None:
            outside_paths[key] = [value]
        for text in iter_texts(value) if key not in ("out", *SERVER_KEYS) else ():
            raw_path = Path(split_prefix(text)[1])
            path, allowed_roots = (base / raw_path).resolve(), (folder,) if raw_path.is_absolute() else (folder, base)
            if not any(path.is_relative_to(root.resolve()) for root in allowed_roots):
                outside_paths.setdefault(key, []).append(str(path))
        code = (text for text in iter_texts(value) if not split_prefix(text)[0]) if key in CODE_KEYS else ()
        for reference in find_references(" ".join(code)):
            file = locate(reference)
            if file is not None:
                outside_paths.setdefault(key, []).append(f"{reference} in {file}")
    return outside_paths


def _line(key: str, path: str) -> str:
    return f"{key}={path}".encode("utf-8", "backslashreplace").decode()


def _user_id() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # Windows has none


def _stores() -> list[Path]:
    """Lists the folders where paths are remembered, in the first that is writable: the user's data folder, or a private
    one in the temporary folder, for a user without a home, as in containers."""
    stores = [Path(tempfile.gettempdir()) / f"rar-train-{_user_id()}"]
    with suppress(RuntimeError):  # there is no home
        stores.insert(0, Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "rar-train")
    return stores


def _record_file(store: Path, key: str, path: str) -> Path:
    """Returns the file whose existence records that a path was given for a key."""
    return store / "paths" / hashlib.sha256(_line(key, path).encode()).hexdigest()[:32]


def _is_private(store: Path) -> bool:
    """Tells whether only this user can write to a folder, unlike one that somebody else put in the temporary folder."""
    try:
        status = store.lstat()
    except OSError:
        return False
    if os.name == "nt":  # the folder's permissions are inherited from the user's
        return stat.S_ISDIR(status.st_mode)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == _user_id() and not status.st_mode & 0o022


def is_known(key: str, path: str) -> bool:
    """Tells whether a path was given for a key before, on this machine and by this user."""
    return any(_is_private(store) and _record_file(store, key, path).is_file() for store in _stores())


def remember(values: dict[str, Any], folder: Path) -> None:
    """Remembers the paths of a recipe that the user gave."""
    for key, paths in paths_outside(values, folder).items():
        for path in paths:
            remember_path(key, path)


def remember_path(key: str, path: str) -> None:
    """Remembers a path that the user gave for a key."""
    if is_known(key, path):
        return
    reasons = []
    for store in _stores():
        try:
            store.mkdir(mode=0o700, parents=True, exist_ok=True)
            check(_is_private(store), f"{store}: other users can write to it")
            write_text(_record_file(store, key, path), f"{_line(key, path)}\n")
            return
        except (OSError, UserError) as error:
            reasons.append(str(error))
    log.warning("can't remember %s=%s (%s): commands will ask for it again", key, path, "; ".join(reasons))


def check_outside(path: Path, values: dict[str, Any], given: set[str], base: Path = Path()) -> None:
    """Checks that a saved recipe names no path outside its folder that the user has not given before.

    Args:
        path: The recipe's file.
        values: Its content.
        given: Keys that the command line overrides.
        base: The folder that relative paths start from; by default the working folder.

    Raises:
        UserError: It names such a path.
    """
    unknown = {
        key: paths
        for key, paths in paths_outside(values, path.parent, base).items()
        if key not in given and not all(is_known(key, outside_path) for outside_path in paths)
    }
    if unknown:
        shown = "; ".join(f"{key}: {', '.join(paths)}" for key, paths in unknown.items())
        kinds = "paths or code" if unknown.keys() & {*CODE_KEYS, REMOTE_CODE} else "paths"
        raise UserError(
            f"{path}: appears to come from another machine or user, and names {kinds} outside its folder: {shown}. "
            f"Give them, or others, as settings: {' '.join(f'{key}={_shown(flatten(values)[key])}' for key in unknown)}"
        )


def _shown(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(element, str) for element in value):
        return shlex.quote(f"[{','.join(value)}]")
    if isinstance(value, bool):
        return str(value).lower()
    return shlex.quote(value) if isinstance(value, str) else "…"
