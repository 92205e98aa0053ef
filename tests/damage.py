"""Damages files as faulty disks, interrupted copies and users do."""

from __future__ import annotations

from pathlib import Path

KINDS = ("cut", "flipped", "removed")


def damage(path: Path, kind: str) -> None:
    """Cuts a file in half, flips a bit in its middle, or removes it."""
    data = bytearray(path.read_bytes())
    if kind == "removed":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0x04
        path.write_bytes(data)


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Reads the bytes of a folder's files, by their paths in it."""
    files = {path for pattern in patterns or ("*",) for path in folder.rglob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}
