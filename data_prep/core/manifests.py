"""The manifest of a folder: facts about what it holds, the checksums of its files, and one of the manifest itself."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_json, read_manifest, write_manifest

MANIFEST = "manifest.json"


def hash_files(path: Path, name: str = "") -> dict[str, str]:
    """SHA-256 by name: of a file, or of all files below a folder.

    Args:
        path: The file or folder.
        name: What it is to be called, where a later rename will call it so.
    """
    if path.is_file():
        return {name: file_hash(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {(Path(name) / file.relative_to(path)).as_posix(): file_hash(file) for file in files}


def find_damage(folder: Path, hashes: dict[str, str]) -> str | None:
    """Names the first file of a folder that is missing or has other bytes than its hash says; None without one."""
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            return f"{folder / name}: missing"
        if file_hash(folder / name) != expected:
            return f"{folder / name}: damaged (its checksum differs)"
    return None


def seal_folder(folder: Path, metadata: dict) -> None:
    """Writes the manifest of a folder whose other files are there.

    Args:
        folder: The folder.
        metadata: What the manifest says beside ``files`` and its own checksum; JSON-able.
    """
    write_manifest(folder / MANIFEST, metadata | {"files": hash_files(folder)})


def read_sealed_folder(folder: Path, remedy: str) -> dict:
    """Reads a folder's manifest and checks it and the files that it names.

    Args:
        folder: What ``seal_folder`` completed.
        remedy: What to do about a damaged or missing file, for the error.

    Raises:
        UserError: The manifest or a file that it names is missing or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: missing; {remedy}")
    manifest = read_manifest(path, remedy)
    found = find_damage(folder, manifest["files"])
    if found:
        raise UserError(f"{found}; {remedy}")
    return manifest


def check_model_folder(folder: Path) -> None:
    """Checks the files of a model's folder, where a command of this project wrote it; others' folders say no checksums.

    Raises:
        UserError: A file is missing or damaged.
    """
    path, remedy = folder / MANIFEST, "give the command that made this folder again, or fetch the folder again"
    if not path.is_file():
        return
    manifest = read_json(path, f"{remedy}; remove the file if another program wrote it")
    if isinstance(manifest, dict) and {"sha256", "files"} <= manifest.keys():
        read_sealed_folder(folder, remedy)
