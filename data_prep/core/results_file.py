"""``results.json``: carries its own checksum, and names the files that were written with it by theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_json, read_manifest, write_manifest

RESULTS = "results.json"
_AGAIN = "run the command that wrote it again; the answers that are there are not asked for again"


def write_results(folder: Path, results: dict[str, Any], files: Sequence[str] = ()) -> None:
    """Writes ``results.json``, after the files that belong to it.

    Args:
        folder: Where to.
        results: The content.
        files: Names of files in the folder, which ``read_results`` will check.
    """
    write_manifest(folder / RESULTS, results | {"files": {name: file_hash(folder / name) for name in files}})


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_AGAIN}")
    found = read_manifest(path, _AGAIN)
    if not isinstance(found.get("files"), dict):
        raise UserError(f"{path}: damaged (it names no files); {_AGAIN}")
    return found


def read_results(folder: Path, files: Sequence[str] = ()) -> dict[str, Any]:
    """Reads what ``write_results`` wrote, without its checksums.

    Args:
        folder: Of the evaluation.
        files: Those of its files that will be read too.

    Raises:
        UserError: ``results.json`` or one of the files is missing or is not what was written.
    """
    found = _read(folder / RESULTS)
    named = found.pop("files")
    for name in files:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file; {_AGAIN}")
        if file_hash(path) != named.get(name):
            raise UserError(f"{path}: damaged or changed (not the file that {RESULTS} names); {_AGAIN}")
    return found


def check_result(path: Path) -> None:
    """Checks a file that a command wrote, before another command takes it as its input.

    A file without a ``results.json`` beside it that names it is anyone's own, and is not checked.

    Raises:
        UserError: It is not the file that was written.
    """
    beside = path.parent / RESULTS
    found = read_json(beside) if beside.is_file() else {}
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict) or path.name not in found["files"]:
        return
    if file_hash(path) != _read(beside)["files"][path.name]:
        raise UserError(
            f"{path}: damaged or changed (not the file that {RESULTS} beside it names); {_AGAIN}, or copy a file that "
            "you changed into another folder"
        )
