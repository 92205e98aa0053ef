"""A memory's files: index and entries under content-addressed names, which a manifest refers to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, part_path, write_text

_DIGITS = 16  # hexadecimal digits of the content hash in a file name

FileRecords = dict[str, dict]
"""Files by name, each with its ``sha256`` and ``bytes``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Identifies the image or name that one vector embeds.

    Attributes:
        label: Class of the entry.
        modality: ``image`` or ``name``.
        key: The sample's key, or the class name.
        digest: The image's SHA-256; for a name, a hash of the descriptions averaged into its vector, empty without any.
            Empty where only the vector is known.
    """

    label: int
    modality: str
    key: str
    digest: str = ""


def write_content_addressed(folder: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> FileRecords:
    """Atomically writes a file whose name contains a hash of its content; other files are left alone.

    Args:
        folder: Folder of the file; created where it is missing.
        stem: Start of the file name.
        suffix: End of the file name.
        write: Writes the content to a path.

    Returns:
        FileRecords: The one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = part_path(folder / f"{stem}{suffix}")
    try:
        write(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        digest, size = file_hash(part), part.stat().st_size
        name = f"{stem}-{digest[:_DIGITS]}{suffix}"
        os.replace(part, folder / name)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return {name: {"sha256": digest, "bytes": size}}


def verify_files(folder: Path, files: FileRecords, remedy: str) -> None:
    """Verifies the size and checksum of files against a manifest.

    Args:
        folder: Folder of the files.
        files: Their records in the manifest.
        remedy: What to do about a damaged file, for the error.

    Raises:
        UserError: A file is missing, or its bytes are not those that were written.
    """
    for name, expected in files.items():
        path = folder / name
        intact = path.is_file() and path.stat().st_size == expected["bytes"] and file_hash(path) == expected["sha256"]
        if not intact:
            raise UserError(f"{path}: missing or damaged; {remedy}")


def remove_unreferenced(folder: Path, suffixes: Mapping[str, str], referenced: FileRecords) -> None:
    """Removes content-addressed files that a manifest no longer refers to, and partial files of killed commands.

    Args:
        folder: Folder of the files.
        suffixes: File name suffixes by stem, as given to ``write_content_addressed``.
        referenced: The files to keep.
    """
    for pattern in (*(f"{stem}-{'[0-9a-f]' * _DIGITS}{suffix}" for stem, suffix in suffixes.items()), ".*.part"):
        for path in folder.glob(pattern):
            if path.name not in referenced:
                path.unlink(missing_ok=True)


def write_entries(path: Path, ids: np.ndarray, entries: Sequence[Entry]) -> None:
    """Writes entries with their ids as JSON Lines."""
    pairs = zip(ids, entries, strict=True)
    write_text(path, (json.dumps({"id": int(i)} | asdict(e), ensure_ascii=False) + "\n" for i, e in pairs))


def read_entries(path: Path) -> tuple[np.ndarray, list[Entry]]:
    """Reads the ids and entries that ``write_entries`` wrote."""
    ids, entries = [], []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            ids.append(record.pop("id"))
            entries.append(Entry(**record))
    return np.array(ids, np.int64), entries
