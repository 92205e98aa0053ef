"""``results.json``: results with their own checksum and the checksums of the files written with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_json, read_manifest, write_manifest

RESULTS = "results.json"
_AGAIN = "run the command that wrote it again; existing answers are not computed again"


def write_results(folder: Path, results: dict[str, Any], files: Sequence[str] = ()) -> None:
    """Writes ``results.json``, after the files that belong to it.

    Args:
        folder: The folder to write to.
        results: The content.
        files: Names of files in the folder that ``read_results`` will verify.
    """
    write_manifest(folder / RESULTS, results | {"files": {name: file_hash(folder / name) for name in files}})


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_AGAIN}")
    results = read_manifest(path, _AGAIN)
    if not isinstance(results.get("files"), dict):
        raise UserError(f"{path}: damaged (it names no files); {_AGAIN}")
    return results


def read_results(folder: Path, files: Sequence[str] = ()) -> dict[str, Any]:
    """Reads the results written by ``write_results``, without the checksums.

    Args:
        folder: Folder of the evaluation.
        files: Files written with the results that the caller will read too; they are verified.

    Raises:
        UserError: ``results.json`` or one of the files is missing or differs from what was written.
    """
    results = _read(folder / RESULTS)
    hashes = results.pop("files")
    for name in files:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file; {_AGAIN}")
        if file_hash(path) != hashes.get(name):
            raise UserError(f"{path}: damaged or changed (not the file that {RESULTS} names); {_AGAIN}")
    return results


def check_result(path: Path) -> None:
    """Verifies a file written by one command before another command uses it as input.

    A file that no ``results.json`` in its folder names is the user's own, and is not verified.

    Raises:
        UserError: The file differs from what was written.
    """
    results_path = path.parent / RESULTS
    results = read_json(results_path) if results_path.is_file() else {}
    if not isinstance(results, dict) or not isinstance(results.get("files"), dict) or path.name not in results["files"]:
        return
    if file_hash(path) != _read(results_path)["files"][path.name]:
        raise UserError(
            f"{path}: damaged or changed (not the file that {RESULTS} in its folder names); {_AGAIN}, or copy a file "
            "that you changed into another folder"
        )
