"""Checks one picture file: that it is a file, decodes, and which bytes it has."""

from __future__ import annotations

import errno
import hashlib
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from data_prep.images import MOST_PIXELS, ImageError, open_image

MOST_BYTES = 8 * MOST_PIXELS
"""A larger file is not read: even stored plainly, with 16 bits for each of four channels, a picture has fewer bytes."""

_BYTES_PER_PIXEL = 24  # while a picture with alpha is turned and laid on a background
_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}


class MemoryBudget:
    """Memory that threads share: who needs more than is left waits; who needs more than there is works alone.

    Args:
        total: Bytes.
    """

    def __init__(self, total: int):
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, amount: int) -> Iterator[None]:
        """Holds as many bytes while the block runs."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


_BUDGET = MemoryBudget(2 << 30)


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


def _needed(path: Path) -> int:
    """Bytes that reading and decoding a file takes, by its header; without a readable one, it will not be decoded."""
    try:
        with Image.open(path) as image:
            pixels = image.width * image.height
    except Exception:  # decoders of damaged files raise errors of many kinds; opening it for good says which
        pixels = 0
    return path.stat().st_size + _BYTES_PER_PIXEL * min(pixels, MOST_PIXELS)


def check_picture(path: Path) -> dict[str, str]:
    """The ``digest`` of a picture file (SHA-256), and the ``reason`` why it cannot be shown, where there is one."""
    if reason := unopenable(path):
        return {"reason": reason}
    try:
        with _BUDGET.holding(_needed(path)):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            open_image(data, str(path))
    except ImageError as error:
        return {"digest": digest, "reason": error.reason}
    except OSError as error:
        return {"reason": str(error.strerror).lower()}
    return {"digest": digest}
