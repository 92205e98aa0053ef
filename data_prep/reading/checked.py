"""Checks one picture file: that it is a file, decodes, and which bytes it has."""

from __future__ import annotations

import errno
import hashlib
import stat
from pathlib import Path

from data_prep.core.images import MOST_PIXELS, ImageError, open_image
from data_prep.core.memory_budget import MemoryBudget

MOST_BYTES = 8 * MOST_PIXELS
"""A larger file is not read: even stored plainly, with 16 bits for each of four channels, a picture has fewer bytes."""

_READING = MemoryBudget(2**30)  # of files' bytes; what decoding takes is bounded where they are opened
_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}


def unopenable(path: Path) -> str:
    """Why a path is no file that can be opened as a picture, without opening it; empty where it is one."""
    try:
        str(path).encode()
        found = path.stat()
    except UnicodeEncodeError:
        return "file name that is not UTF-8"
    except OSError as error:
        if error.errno == errno.ENOENT and path.is_symlink():
            return "broken link"
        return "link to itself" if error.errno == errno.ELOOP else str(error.strerror).lower()
    except ValueError:
        return "impossible file name"
    if not stat.S_ISREG(found.st_mode):
        return f"{_KINDS.get(stat.S_IFMT(found.st_mode), 'special file')}, not a file"
    if found.st_size > MOST_BYTES:
        return f"file of more than {MOST_BYTES / 1e9:.1f} GB"
    return ""


def check_picture(path: Path) -> dict[str, str]:
    """The ``digest`` of a picture file (SHA-256), and the ``reason`` why it cannot be shown, where there is one."""
    if reason := unopenable(path):
        return {"reason": reason}
    try:
        with _READING.holding(path.stat().st_size):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            open_image(data, str(path))
    except ImageError as error:
        return {"digest": digest, "reason": error.reason}
    except OSError as error:
        return {"reason": str(error.strerror).lower()}
    return {"digest": digest}
