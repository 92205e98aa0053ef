"""Checks one image file: that it is a regular file and decodes; computes its SHA-256."""

from __future__ import annotations

import errno
import hashlib
import stat
from pathlib import Path

from data_prep.core.images import MOST_PIXELS, ImageError, open_image
from data_prep.core.memory_budget import MemoryBudget

MOST_BYTES = 8 * MOST_PIXELS
"""Larger files are not read: even uncompressed, with four channels of 16 bits, an image has fewer bytes."""

_READ_BUDGET = MemoryBudget(2**30)  # bytes of files held at once; decoding has its own budget in open_image
_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}


def unreadable_reason(path: Path) -> str:
    """Returns why a path cannot be opened as an image file, without opening it; empty if it can."""
    try:
        str(path).encode()
        status = path.stat()
    except UnicodeEncodeError:
        return "file name that is not UTF-8"
    except OSError as error:
        if error.errno == errno.ENOENT and path.is_symlink():
            return "broken link"
        return "link to itself" if error.errno == errno.ELOOP else str(error.strerror).lower()
    except ValueError:
        return "impossible file name"
    if not stat.S_ISREG(status.st_mode):
        return f"{_KINDS.get(stat.S_IFMT(status.st_mode), 'special file')}, not a file"
    if status.st_size > MOST_BYTES:
        return f"file of more than {MOST_BYTES / 1e9:.1f} GB"
    return ""


def check_image(path: Path) -> dict[str, str]:
    """Returns an image file's ``digest`` (SHA-256) and, if it cannot be decoded, the ``reason``.

    A file that cannot be read has only a ``reason``.
    """
    if reason := unreadable_reason(path):
        return {"reason": reason}
    try:
        with _READ_BUDGET.holding(path.stat().st_size):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            open_image(data, str(path))
    except ImageError as error:
        return {"digest": digest, "reason": error.reason}
    except OSError as error:
        return {"reason": str(error.strerror).lower()}
    return {"digest": digest}
