"""Folders of pictures that the cache keeps: sealed when they are made, and confirmed whenever they are read."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_sealed, write_sealed
from data_prep.reading.dataset import check_pictures, find_missing

CONTENTS = "contents.json"
_TEXTS = (".csv", ".json", ".md")


def seal(folder: Path, contents: dict[str, str]) -> None:
    """Notes what a folder holds: SHA-256 by relative path."""
    write_sealed(folder / CONTENTS, contents)


def confirm(folder: Path, cache: Path, remedy: str = "") -> None:
    """Compares a folder with what was noted; a picture is hashed again where its size or time has changed.

    Args:
        folder: What was sealed.
        cache: Folder of caches.
        remedy: What to do about a damaged folder, where the next run would not make it again.

    Raises:
        UserError: A file is missing or altered, or the note is.
    """
    remedy = remedy or f"delete {folder} to have it made again"
    if not (folder / CONTENTS).exists():
        raise UserError(f"{folder / CONTENTS}: missing; {remedy}")
    contents = read_sealed(folder / CONTENTS, remedy)
    paths = [folder / name for name in contents]
    texts = [path for path in paths if path.suffix in _TEXTS]
    pictures = [path for path in paths if path.suffix not in _TEXTS]
    if missing := find_missing(paths):
        raise UserError(f"{missing[0]}: missing ({len(missing)} of {len(paths)} files are); {remedy}")
    found = {path: file_hash(path) for path in texts}
    found |= {p: own.get("digest") for p, own in zip(pictures, check_pictures(pictures, cache), strict=True)}
    for path, expected in zip(paths, contents.values(), strict=True):
        if found[path] != expected:
            raise UserError(f"{path}: altered since it was made; {remedy}")
