"""A memory's files: index and entries under names made of their content, so that what a manifest names stays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, part_path, write_text

_DIGITS = 16  # of a content's hash, in a file's name

Named = dict[str, dict]
"""Files by name, each with its ``sha256`` and ``bytes``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one vector stands for.

    Attributes:
        label: Its class.
        modality: ``image`` or ``name``.
        key: The sample's key, or the class name.
        digest: The image's SHA-256; empty for a name, and where only the vector is known.
    """

    label: int
    modality: str
    key: str
    digest: str = ""


def keep(folder: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> Named:
    """Writes a file under a name made of its content, whole or not at all; the files beside it stay.

    Args:
        folder: Where it goes.
        stem: How its name begins.
        suffix: How its name ends.
        write: Writes it to a path.
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


def check_kept(folder: Path, files: Named, remedy: str) -> None:
    """Compares files with what a manifest says of them.

    Raises:
        UserError: One is missing, or its bytes are not those that were written.
    """
    for name, expected in files.items():
        path = folder / name
        whole = path.is_file() and path.stat().st_size == expected["bytes"] and file_hash(path) == expected["sha256"]
        if not whole:
            raise UserError(f"{path}: missing or damaged; {remedy}")


def drop_others(folder: Path, kinds: Mapping[str, str], named: Named) -> None:
    """Removes what ``keep`` wrote and a manifest no longer names, and what killed commands left half-written.

    Args:
        folder: Where.
        kinds: Suffixes by stem.
        named: What stays.
    """
    for pattern in (*(f"{stem}-{'[0-9a-f]' * _DIGITS}{suffix}" for stem, suffix in kinds.items()), ".*.part"):
        for old in folder.glob(pattern):
            if old.name not in named:
                old.unlink(missing_ok=True)


def write_entries(path: Path, ids: np.ndarray, entries: Sequence[Entry]) -> None:
    """Writes entries with their ids, one a line."""
    pairs = zip(ids, entries, strict=True)
    write_text(path, (json.dumps({"id": int(i)} | asdict(e), ensure_ascii=False) + "\n" for i, e in pairs))


def read_entries(path: Path) -> tuple[np.ndarray, list[Entry]]:
    """Ids and entries that ``write_entries`` wrote."""
    ids, entries = [], []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            ids.append(record.pop("id"))
            entries.append(Entry(**record))
    return np.array(ids, np.int64), entries
