"""Integrity of image folders in the cache: a list of hashes is written with the folder and verified on each read."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_sealed, write_sealed
from data_prep.reading.dataset import check_images, find_missing

CONTENTS = "contents.json"
_TEXTS = (".csv", ".json", ".md")


def seal(folder: Path, contents: dict[str, str]) -> None:
    """Writes the list of a folder's contents: SHA-256 by relative path."""
    write_sealed(folder / CONTENTS, contents)


def confirm(folder: Path, cache: Path, remedy: str = "") -> None:
    """Verifies a folder against its list of contents; an image is hashed again only if its size or time has changed.

    Args:
        folder: A folder that ``seal`` was called on.
        cache: Folder of caches.
        remedy: What to do about a damaged folder, where the next run would not make it again.

    Raises:
        UserError: A file or the list itself is missing or altered.
    """
    remedy = remedy or f"delete {folder} to have it made again"
    if not (folder / CONTENTS).exists():
        raise UserError(f"{folder / CONTENTS}: missing; {remedy}")
    contents = read_sealed(folder / CONTENTS, remedy)
    paths = [folder / name for name in contents]
    texts = [path for path in paths if path.suffix in _TEXTS]
    images = [path for path in paths if path.suffix not in _TEXTS]
    if missing := find_missing(paths):
        raise UserError(f"{missing[0]}: missing ({len(missing)} of {len(paths)} files are); {remedy}")
    hashes = {path: file_hash(path) for path in texts}
    hashes |= {path: check.get("digest") for path, check in zip(images, check_images(images, cache), strict=True)}
    for path, expected in zip(paths, contents.values(), strict=True):
        if hashes[path] != expected:
            raise UserError(f"{path}: altered since it was made; {remedy}")
