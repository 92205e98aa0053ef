"""Files that are either whole or absent, and fingerprints of what they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.errors import UserError


def fingerprint(value: Any) -> str:
    """A short stable hash of a JSON-able value: the name of a cache entry.

    Returns:
        str: 16 hexadecimal digits.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below a folder, in hexadecimal."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    lines = [f"{p.relative_to(folder).as_posix()} {file_hash(p)}" for p in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Writes a text file, given whole or in pieces, under a temporary name and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file under a temporary name and renames it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); delete it to have it made again") from None


def _parts_left(folder: Path) -> Iterator[Path]:
    """Half-written folders that runs of this machine left behind when they were killed."""
    for part in folder.parent.glob(f".{folder.name}.*.part"):
        host, _, number = part.name.removesuffix(".part").removeprefix(f".{folder.name}.").rpartition("-")
        if host == socket.gethostname() and number.isdigit() and not Path(f"/proc/{number}").exists():
            yield part


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder to fill and renames it to ``folder`` when the block ends well.

    Processes that make the same folder at once do not touch each other's part, and the first to end
    makes it; what killed ones left is removed first. A ``folder`` that was there before is replaced.
    """
    before = folder.exists()
    for left in _parts_left(folder):
        shutil.rmtree(left, ignore_errors=True)
    part = folder.with_name(f".{folder.name}.{socket.gethostname()}-{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if not before and folder.exists():
        shutil.rmtree(part)  # made meanwhile; another process may be reading it
    elif folder.exists():
        old = part.with_suffix(".old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old)
    else:
        os.replace(part, folder)
