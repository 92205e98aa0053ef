"""Whole or absent files, checksums, locks, and fingerprints of what a file depends on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from data_prep.core.errors import UserError


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


def part_path(path: Path) -> Path:
    """A temporary name beside a file or folder; no other process, thread or machine uses the same one."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")


_WRAPPED = re.compile(r"\(os error (\d+)\)")  # how Rust's libraries end the text of such an error


@contextmanager
def naming_path(path: Path) -> Iterator[None]:
    """Has an error of the operating system name what is written where it names nothing, as with a full disk.

    Raises:
        OSError: As it was raised, or as safetensors wraps it.
    """
    try:
        yield
    except SafetensorError as error:
        wrapped = _WRAPPED.search(str(error))
        if wrapped is None:
            raise
        raise OSError(int(wrapped[1]), os.strerror(int(wrapped[1])), str(path)) from error
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Writes a text file, given whole or in pieces, under a temporary name and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path)
    try:
        with naming_path(path), open(part, "w", encoding="utf-8") as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file under a temporary name and renames it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, remedy: str = "") -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        remedy: What to do about a damaged file, for the error. Name a way that leads back to the same result; a file
            that can't be made again is not to be deleted.

    Raises:
        UserError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # Windows tools write a byte order mark
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})" + (f"; {remedy}" if remedy else "")) from None


REMAKE = "delete it to have it made again"
"""The remedy for a damaged file of a cache."""


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_sealed(path: Path, value: Any) -> None:
    """Writes a JSON file that carries its own checksum, for ``read_sealed``."""
    write_json(path, {"sha256": _checksum(value), "content": value})


def read_sealed(path: Path, remedy: str = REMAKE) -> Any:
    """Reads what ``write_sealed`` wrote, and checks it.

    Raises:
        UserError: The file is missing, is not JSON, or its content is not what was written.
    """
    sealed = read_json(path, remedy)
    if not isinstance(sealed, dict) or sealed.keys() != {"sha256", "content"}:
        raise UserError(f"{path}: damaged (it has no checksum); {remedy}")
    if _checksum(sealed["content"]) != sealed["sha256"]:
        raise UserError(f"{path}: damaged (its checksum differs); {remedy}")
    return sealed["content"]


def write_manifest(path: Path, metadata: dict) -> None:
    """Writes a JSON object with its own checksum beside its keys, for ``read_manifest``."""
    metadata = json.loads(json.dumps(metadata))  # as it is read back: keys are text, and their order follows it
    write_json(path, metadata | {"sha256": _checksum(metadata)})


def read_manifest(path: Path, remedy: str = REMAKE) -> dict:
    """Reads what ``write_manifest`` wrote, and checks it.

    Raises:
        UserError: The file is missing, is not JSON, or is not what was written.
    """
    metadata = read_json(path, remedy)
    if not isinstance(metadata, dict) or "sha256" not in metadata:
        raise UserError(f"{path}: damaged (it has no checksum); {remedy}")
    if metadata.pop("sha256") != _checksum(metadata):
        raise UserError(f"{path}: damaged (its checksum differs); {remedy}")
    return metadata


def sealed_line(record: dict) -> str:
    """A line of JSON that carries its own checksum, for files that grow line by line."""
    return json.dumps(record | {"sha256": _checksum(record)[:16]}) + "\n"


def read_sealed_line(line: str, where: str, remedy: str) -> dict:
    """Reads and checks a line that ``sealed_line`` wrote.

    Args:
        line: The line.
        where: File and number of the line, for the error.
        remedy: What to do about a damaged file.

    Raises:
        UserError: It is not JSON, or not what was written.
    """
    try:
        record = json.loads(line)
        expected = record.pop("sha256")
    except (ValueError, RecursionError, KeyError, AttributeError, TypeError):
        raise UserError(f"{where}: damaged (not a line with a checksum); {remedy}") from None
    if _checksum(record)[:16] != expected:
        raise UserError(f"{where}: damaged (its checksum differs); {remedy}")
    return record


@contextmanager
def file_lock(path: Path, seconds: float = 600) -> Iterator[None]:
    """Holds the lock of a file or folder that several commands change; the lock is a file beside it.

    Raises:
        UserError: Another process held it for ``seconds``.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    try:
        with FileLock(lock, timeout=seconds):
            yield
    except Timeout:
        raise UserError(
            f"{path}: another command has been changing it for {seconds:g} s; wait for it to end and try again"
        ) from None


def leftover_parts(folder: Path) -> Iterator[Path]:
    """Half-written folders that runs of this machine left behind when they were killed."""
    for part in folder.parent.glob(f".{folder.name}.*.part"):
        host, number, _ = part.name.removesuffix(".part").removeprefix(f".{folder.name}.").rsplit("-", 2)
        if host == socket.gethostname() and number.isdigit() and not Path(f"/proc/{number}").exists():
            yield part


def _taken_away(folder: Path) -> UserError:
    return UserError(
        f"{folder.parent}: was removed or moved while {folder.name} was being written there; give the command again"
    )


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder to fill and renames it to ``folder`` when the block ends well.

    Processes that make the same folder at once do not touch each other's part, and the first to end
    makes it; what killed ones left is removed first. A ``folder`` that was there before is replaced.
    """
    before = folder.exists()
    for left in leftover_parts(folder):
        shutil.rmtree(left, ignore_errors=True)
    part = part_path(folder)
    part.mkdir(parents=True)
    try:
        with naming_path(folder):
            yield part
    except BaseException as error:
        if isinstance(error, OSError) and not part.exists():
            raise _taken_away(folder) from error
        shutil.rmtree(part, ignore_errors=True)
        raise
    if before and folder.exists():
        old = part.with_suffix(".old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old)
        return
    try:
        part.rename(folder)
    except OSError as error:
        if not part.exists():
            raise _taken_away(folder) from error
        shutil.rmtree(part)
        if not folder.exists():
            raise  # else it was made meanwhile, and another process may be reading it


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
