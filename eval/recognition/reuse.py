"""Reuse of complete evaluations: what they depend on, their files and the code are as they were."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, fingerprint, read_sealed, write_sealed
from data_prep.core.paths import PACKAGES
from data_prep.core.results_file import RESULTS, read_results
from data_prep.settings import Recipe, TrackingArgs
from eval.report.reading import FILES
from rar_train.engine.wandb_mode import wandb_mode

log = logging.getLogger(__name__)

_FILE = "complete.json"
_PACKAGES = ("data_prep", "rar_train", "eval")
_CODE = (".py", ".j2", ".js", ".css")
_AGENT = ("WANDB_RUN_ID", "WANDB_SWEEP_ID")
_LIBRARIES = ("faiss-cpu", "jinja2", "matplotlib", "numpy", "orjson", "pillow", "scipy", "torch")


@cache
def hash_code() -> str:
    """Hashes the code of the packages, and the versions of the libraries that results are computed and drawn with."""
    files = [path for name in _PACKAGES for path in (PACKAGES / name).rglob("*") if path.suffix in _CODE]
    hashes = {path.relative_to(PACKAGES).as_posix(): file_hash(path) for path in files}
    return fingerprint([hashes, [version(library) for library in _LIBRARIES]])


def _tracking(args: TrackingArgs) -> dict[str, Any]:
    """Returns the tracker's settings, with the run and the sweep that an agent of W&B has started the command for."""
    return asdict(args) | {"wandb": wandb_mode(args)} | {name: os.environ.get(name) for name in _AGENT}


def hash_files(folder: Path, files: list[Path]) -> dict[str, str]:
    """Returns the SHA-256 of an evaluation's files by name; taken while no other command can write them."""
    return {path.name: file_hash(path) for path in sorted({*files, *(folder / name for name in (*FILES, RESULTS))})}


def mark_complete(folder: Path, stamp: str, recipe: Recipe, hashes: Mapping[str, str]) -> None:
    """Notes that an evaluation is complete: written last, after the tracker has it.

    Args:
        folder: Its folder.
        stamp: Hash of all that it depends on.
        recipe: Its recipe, for the tracker's settings.
        hashes: From ``hash_files``.
    """
    note = {"stamp": stamp, "tracking": _tracking(recipe.tracking), "files": dict(hashes)}
    write_sealed(folder / _FILE, note)


def read_complete(folder: Path, stamp: str, recipe: Recipe) -> dict | None:
    """Returns the results of an evaluation that would only be repeated, or None.

    That is one that ended, of the same inputs and by the same code, whose files are there and unchanged, and which the
    tracker, if it is on, has with the same settings. Metrics of the user's own may have changed, so that they are
    computed again.

    Args:
        folder: The evaluation's folder.
        stamp: Hash of all that it depends on.
        recipe: Its recipe.
    """
    if recipe.eval.metrics or not (folder / _FILE).is_file():
        return None
    try:
        note = read_sealed(folder / _FILE)
        if note["stamp"] != stamp:
            return None
        tracking = _tracking(recipe.tracking)
        if tracking["wandb"] != "disabled" and note["tracking"] != tracking:
            return None
        changed = [name for name, digest in note["files"].items() if _digest(folder / name) != digest]
        if changed:
            log.info("%s: %s missing or changed: writing the evaluation again", folder, ", ".join(changed))
            return None
        return read_results(folder)
    except (UserError, KeyError, TypeError) as error:
        log.warning("%s; evaluating", error)
        return None


def _digest(path: Path) -> str | None:
    return file_hash(path) if path.is_file() else None
