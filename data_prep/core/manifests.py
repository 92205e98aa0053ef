"""Folder manifests: metadata about the contents, the checksums of the files, and a checksum of the manifest itself."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_json, read_manifest, write_manifest

MANIFEST = "manifest.json"


def hash_files(path: Path, name: str = "") -> dict[str, str]:
    """Computes the SHA-256 of a file, or of all files below a folder, by name.

    Args:
        path: The file or folder.
        name: Name to record for it, if it will be renamed later.
    """
    if path.is_file():
        return {name: file_hash(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {(Path(name) / file.relative_to(path)).as_posix(): file_hash(file) for file in files}


def find_damage(folder: Path, hashes: dict[str, str]) -> str | None:
    """Describes the first file of a folder that is missing or does not match its hash; None if all match."""
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            return f"{folder / name}: missing"
        if file_hash(folder / name) != expected:
            return f"{folder / name}: damaged (its checksum differs)"
    return None


def seal_folder(folder: Path, metadata: dict) -> None:
    """Writes the manifest of a folder whose other files are complete.

    Args:
        folder: The folder.
        metadata: Manifest content in addition to ``files`` and its own checksum; JSON-serialisable.
    """
    write_manifest(folder / MANIFEST, metadata | {"files": hash_files(folder)})


def read_sealed_folder(folder: Path, remedy: str) -> dict:
    """Reads a folder's manifest, and verifies it and the files that it names.

    Args:
        folder: A folder completed by ``seal_folder``.
        remedy: What to do about a damaged or missing file, for the error message.

    Raises:
        UserError: The manifest or a file that it names is missing or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: missing; {remedy}")
    manifest = read_manifest(path, remedy)
    damage = find_damage(folder, manifest["files"])
    if damage:
        raise UserError(f"{damage}; {remedy}")
    return manifest


def check_model_folder(folder: Path) -> None:
    """Verifies the files of a model folder written by a command of this project; other folders have no checksums.

    Raises:
        UserError: A file is missing or damaged.
    """
    path, remedy = folder / MANIFEST, "give the command that made this folder again, or fetch the folder again"
    if not path.is_file():
        return
    manifest = read_json(path, f"{remedy}; remove the file if another program wrote it")
    if isinstance(manifest, dict) and {"sha256", "files"} <= manifest.keys():
        read_sealed_folder(folder, remedy)
