"""Atomic writes of files and folders, checksums, locks, and fingerprints for cache entries."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from safetensors import SafetensorError

from data_prep.core.errors import UserError

_COMPRESSION = 1  # the fastest level; on lines of JSON the others take several times as long and save little
_BUFFER = 2**20


def fingerprint(value: Any) -> str:
    """Computes a short stable hash of a JSON-serialisable value, used to name cache entries.

    Returns:
        str: 16 hexadecimal digits.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Computes the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hash(folder: Path) -> str:
    """Computes the SHA-256 over the names and contents of all files below a folder, in hexadecimal."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    lines = [f"{p.relative_to(folder).as_posix()} {file_hash(p)}" for p in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def part_path(path: Path) -> Path:
    """Returns a temporary path next to a file or folder, unique across processes, threads and machines."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")


_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust libraries end the text of an operating system error


@contextmanager
def naming_path(path: Path) -> Iterator[None]:
    """Adds the path being written to operating system errors that name none, such as a full disk.

    Raises:
        OSError: The original error, or the one that safetensors wraps.
    """
    try:
        yield
    except SafetensorError as error:
        match = _RUST_OS_ERROR.search(str(error))
        if match is None:
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1])), str(path)) from error
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def _write_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file to write to, under a temporary name, and renames it to ``path`` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path)
    try:
        with naming_path(path), open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Writes a text file, given as one string or in pieces, under a temporary name and renames it."""
    with _write_file(path) as file:
        file.writelines(piece.encode() for piece in ([text] if isinstance(text, str) else text))


def write_gzip(path: Path, lines: Iterable[bytes]) -> None:
    """Writes a file compressed with gzip, as ``write_text`` does; equal lines give equal bytes.

    A thread compresses what was written last, while the next lines are made.
    """
    with (
        _write_file(path) as file,
        gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as compressed,
        ThreadPoolExecutor(1) as thread,
    ):
        writing = thread.submit(compressed.write, b"")
        for block in _blocks(lines):
            writing.result()
            writing = thread.submit(compressed.write, block)
        writing.result()


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Joins lines to blocks of about ``_BUFFER`` bytes."""
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= _BUFFER:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file under a temporary name and renames it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, remedy: str = "") -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        remedy: What to do about a damaged file, for the error message. It must restore the same result: never suggest
            to delete a file that cannot be recreated.

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
"""The remedy for a damaged cache file."""


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_sealed(path: Path, value: Any) -> None:
    """Writes a JSON file with its own checksum, for ``read_sealed``."""
    write_json(path, {"sha256": _checksum(value), "content": value})


def read_sealed(path: Path, remedy: str = REMAKE) -> Any:
    """Reads a file written by ``write_sealed`` and verifies its checksum.

    Raises:
        UserError: The file is missing, is not JSON, or its content differs from what was written.
    """
    sealed = read_json(path, remedy)
    if not isinstance(sealed, dict) or sealed.keys() != {"sha256", "content"}:
        raise UserError(f"{path}: damaged (it has no checksum); {remedy}")
    if _checksum(sealed["content"]) != sealed["sha256"]:
        raise UserError(f"{path}: damaged (its checksum differs); {remedy}")
    return sealed["content"]


def write_manifest(path: Path, metadata: dict) -> None:
    """Writes a JSON object with its own checksum as an additional key, for ``read_manifest``."""
    metadata = json.loads(json.dumps(metadata))  # as read back: keys are text, and sorted as text for the checksum
    write_json(path, metadata | {"sha256": _checksum(metadata)})


def read_manifest(path: Path, remedy: str = REMAKE) -> dict:
    """Reads an object written by ``write_manifest`` and verifies its checksum.

    Raises:
        UserError: The file is missing, is not JSON, or differs from what was written.
    """
    metadata = read_json(path, remedy)
    if not isinstance(metadata, dict) or "sha256" not in metadata:
        raise UserError(f"{path}: damaged (it has no checksum); {remedy}")
    if metadata.pop("sha256") != _checksum(metadata):
        raise UserError(f"{path}: damaged (its checksum differs); {remedy}")
    return metadata


def sealed_line(record: dict) -> str:
    """Formats a line of JSON with its own checksum, for files that grow line by line."""
    return json.dumps(record | {"sha256": _checksum(record)[:16]}) + "\n"


def read_sealed_line(line: str, where: str, remedy: str) -> dict:
    """Parses a line written by ``sealed_line`` and verifies its checksum.

    Args:
        line: The line.
        where: File and line number, for the error message.
        remedy: What to do about a damaged file, for the error message.

    Raises:
        UserError: The line is not JSON, or differs from what was written.
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
    """Holds the lock of a file or folder that several commands change; the lock is a file next to it.

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
    """Yields the incomplete folders that killed processes on this machine left behind."""
    for part in folder.parent.glob(f".{folder.name}.*.part"):
        host, pid, _ = part.name.removesuffix(".part").removeprefix(f".{folder.name}.").rsplit("-", 2)
        if host == socket.gethostname() and pid.isdecimal() and not psutil.pid_exists(int(pid)):
            yield part


def _removed_error(folder: Path) -> UserError:
    return UserError(
        f"{folder.parent}: was removed or moved while {folder.name} was being written there; run the command again"
    )


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill, and renames it to ``folder`` when the block succeeds.

    Processes that write the same folder concurrently do not touch each other's temporary folder; the first to
    finish creates ``folder``. Leftovers of killed processes are removed first. A ``folder`` that existed before the
    block is replaced.
    """
    existed_before = folder.exists()
    for leftover in leftover_parts(folder):
        shutil.rmtree(leftover, ignore_errors=True)
    part = part_path(folder)
    part.mkdir(parents=True)
    try:
        with naming_path(folder):
            yield part
    except BaseException as error:
        if isinstance(error, OSError) and not part.exists():
            raise _removed_error(folder) from error
        shutil.rmtree(part, ignore_errors=True)
        raise
    if existed_before and folder.exists():
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
            raise _removed_error(folder) from error
        shutil.rmtree(part)
        if not folder.exists():
            raise  # else another process created it in the meantime, and a third may be reading it


def remove(path: Path) -> None:
    """Removes a file or a folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
