"""Paths in settings: the home folder, what ``data.root`` alone means, and the working folder of a saved recipe."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from data_prep.core.paths import expand_home, split_prefix
from data_prep.settings import check

log = logging.getLogger(__name__)

WORKING_FOLDER = "working_folder"
"""The line of a saved recipe that says which folder its relative paths were typed in; no setting of a recipe."""

# Keys of paths, and keys of models, which are paths only where there is such a file or folder.
_PATHS = {
    *("cache", "data.root", "mining.shards", "mining.mix.data.root", "eval.clip_lora"),
    *("detection.annotations", "detection.images", "detection.detections"),
}
_PATHS_OR_NAMES = {
    *("data.descriptions", "mining.mix.data.descriptions", "discover.sentences"),
    *("ranker.model", "ranker.reranker_template", "retriever.model", "retriever.pretrained"),
    *("retriever.name_model", "retriever.name_pretrained"),
}


def expand_homes(value: Any) -> Any:
    """Replaces a leading ``~`` in all text of a typed value, at any depth."""
    if isinstance(value, str):
        return expand_home(value)
    if isinstance(value, list):
        return [expand_homes(element) for element in value]
    return {key: expand_homes(element) for key, element in value.items()} if isinstance(value, dict) else value


def read_root_as_folder(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Adds ``data.name=folder`` to settings that give ``data.root`` alone, where the recipe's data set has no files.

    Args:
        settings: The command line's settings, nested.
        name: ``data.name`` of the recipe that they change.
    """
    data = settings.get("data", {})
    if name != "armory" or "name" in data or data.get("root") is None:
        return settings
    log.info("data.root is given without data.name: data.name=folder (your own images)")
    return settings | {"data": data | {"name": "folder"}}


def working_folder() -> str | None:
    """Returns the working folder, as a saved recipe names it; None where YAML or a recipe can't hold its name."""
    folder = str(Path.cwd())
    try:
        folder.encode()
    except UnicodeEncodeError:
        return None
    return None if "${" in folder or not folder.isprintable() else folder


def _exists(path: Path) -> bool:
    """Returns whether there is such a path; unlike pathlib, false for one that this user may not see."""
    return os.path.exists(path)  # noqa: PTH110


def take_working_folder(path: Path, values: dict[str, Any]) -> Path | None:
    """Removes the line of the working folder from a saved recipe's values.

    Returns:
        Path | None: The folder; None where relative paths start from the present working folder: it is the same, or a
        copy or the new place of the one that the run was made in, or there is no such folder or line.

    Raises:
        UserError: The line is not text.
    """
    folder = values.pop(WORKING_FOLDER, None)
    check(folder is None or isinstance(folder, str), f"{path}: {WORKING_FOLDER}: must be the path of a folder")
    if folder is None or not _exists(Path(folder) / ".") or Path(folder).samefile(Path()):
        return None
    run = Path(str(values.get("out")))
    is_here = not run.is_absolute() and _exists(run) and run.samefile(path.parent)
    return None if is_here else Path(folder)


def paths_from(folder: Path, value: Any, key: str = "") -> Any:
    """Returns a recipe's values with relative paths made absolute.

    A name of a model stays as it is unless there is such a file or folder.

    Args:
        folder: The folder that they are relative to.
        value: The recipe, or a part of it.
        key: The part's key.
    """
    if isinstance(value, dict):
        prefix = f"{key}." if key else ""
        return {name: paths_from(folder, element, f"{prefix}{name}") for name, element in value.items()}
    if isinstance(value, list):
        return [paths_from(folder, element, key) for element in value]
    if not isinstance(value, str) or key not in _PATHS | _PATHS_OR_NAMES:
        return value
    prefix, name = split_prefix(value)
    path = Path(os.path.normpath(folder / name))
    return f"{prefix}{path}" if key in _PATHS or prefix == "local-dir:" or _exists(path) else value
