"""What a reader returns, and the check that every image is there, decodes and is known by content."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from data_prep.errors import UserError
from data_prep.files import fingerprint, read_json, write_json
from data_prep.records import Sample

log = logging.getLogger(__name__)

PARTS = ("tuning", "development_memory", "development", "test_memory", "test")


@dataclass(frozen=True)
class Dataset:
    """Labelled images by part.

    Attributes:
        name: For logs and result rows.
        names: Class names by label.
        parts: Samples of the parts that were asked for.
        skipped: How many images were left out, by reason.
        templates: The data set's own prompts around a class name, for a recipe that names none.
    """

    name: str
    names: tuple[str, ...]
    parts: dict[str, list[Sample]]
    skipped: Counter = field(default_factory=Counter)
    templates: tuple[str, ...] = ()

    def labels(self, part: str) -> list[int]:
        """The classes that occur in a part, ascending."""
        return sorted({sample.label for sample in self.parts[part]})


def key_of(path: str) -> str:
    """A sample's key from its relative path: letters, digits, ``-`` and ``_`` stay.

    A short hash of the path keeps keys distinct where the readable part would not.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", path.rsplit(".", 1)[0])[-80:]
    return f"{readable}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _digest(path: Path) -> str | None:
    """SHA-256 of an image file, or None where it does not decode."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return hashlib.sha256(data).hexdigest()


def digests(paths: list[Path], cache: Path, unreadable: str) -> list[str | None]:
    """Decodes every image once and hashes its bytes; the result is cached by path, size and time.

    Args:
        paths: Image files.
        cache: Folder of caches.
        unreadable: ``error`` or ``skip``.

    Returns:
        list[str | None]: SHA-256 by path; None for an image that does not decode.

    Raises:
        UserError: A file is missing, or does not decode and ``unreadable`` is ``error``.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: no such image ({len(missing)} of {len(paths)} are missing)")
    stats = [path.stat() for path in paths]
    listing = [(str(p), s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats, strict=True)]
    kept = cache / f"digests-{fingerprint(listing)}.json"
    if kept.exists():
        found = read_json(kept)
    else:
        log.info("data: checking %d images", len(paths))
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(_digest, paths))
        write_json(kept, found)
    bad = [path for path, digest in zip(paths, found, strict=True) if digest is None]
    if bad and unreadable == "error":
        raise UserError(
            f"{bad[0]}: not readable as an image ({len(bad)} of {len(paths)}); "
            "mend or remove it, or set data.unreadable=skip"
        )
    if bad:
        log.warning("data: skipped %d unreadable images, the first is %s", len(bad), bad[0])
    return found
