"""What a reader returns, and the check that every image is there, decodes and is known by content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, read_sealed, write_sealed, write_text
from data_prep.core.images import VERSION
from data_prep.core.progress import progress_bar
from data_prep.core.records import Sample
from data_prep.reading.checked import check_picture

log = logging.getLogger(__name__)

PARTS = ("train", "val_memory", "val", "test_memory", "test")


@dataclass(frozen=True)
class Dataset:
    """Labelled images by part.

    Attributes:
        name: For logs and result rows.
        names: Class names by label.
        parts: Samples of the parts that were asked for.
        skipped: How many images were left out, by reason.
        synonyms: Other names of a class by label, where the data set has them.
        templates: The data set's own prompts around a class name, for a recipe that names none.
        unnumbered: Class names as the data set has them, where ``names`` numbers classes of one name.
    """

    name: str
    names: tuple[str, ...]
    parts: dict[str, list[Sample]]
    skipped: Counter = field(default_factory=Counter)
    synonyms: dict[int, tuple[str, ...]] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    unnumbered: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """What stands for each class in the encoder's prompts: classes of one name have one text, and one embedding."""
        return self.unnumbered or self.names

    def labels(self, part: str) -> list[int]:
        """The classes that occur in a part, ascending."""
        return sorted({sample.label for sample in self.parts[part]})


def sample_key(path: str) -> str:
    """A sample's key from its relative path: letters, digits, ``-`` and ``_`` stay.

    A short hash of the path keeps keys distinct where the readable part would not.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", path.rsplit(".", 1)[0])[-80:]
    return f"{readable}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def find_missing(paths: list[Path]) -> list[Path]:
    """The paths at which there is nothing; a broken link is something."""
    return [path for path, known in zip(paths, map(_known_by, paths), strict=True) if known is None]


def _known_by(path: Path) -> list | None:
    """By what a checked file is known again: size and times, or why it has none; None where there is nothing."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ["broken link"] if path.is_symlink() else None
    except (OSError, ValueError) as error:
        return [str(error)]
    # Also when it was last put there: who copies or unpacks another file over it may set its time to the old one.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def check_pictures(paths: list[Path], cache: Path) -> list[dict[str, str]]:
    """Decodes every image once and hashes its bytes; the result is cached by path, size and times.

    Args:
        paths: Image files.
        cache: Folder of caches.

    Returns:
        list[dict[str, str]]: What ``check_picture`` says of each.

    Raises:
        UserError: A file is missing, or the cached result is damaged.
    """
    known = [_known_by(path) for path in paths]
    missing = [path for path, by in zip(paths, known, strict=True) if by is None]
    if missing:
        raise UserError(f"{missing[0]}: no such image ({len(missing)} of {len(paths)} are missing)")
    kept = cache / f"digests-{_listing(paths, known)}.json"
    if kept.exists():
        return read_sealed(kept)
    log.info("data: checking %d images", len(paths))
    with ThreadPoolExecutor() as pool:
        found = list(progress_bar("checking images", pool.map(check_picture, paths), len(paths)))
    write_sealed(kept, found)
    return found


def _listing(paths: list[Path], known: list) -> str:
    return fingerprint([VERSION, [(ascii(str(path)), by) for path, by in zip(paths, known, strict=True)]])


def digests(paths: list[Path], cache: Path, on_error: str) -> list[str | None]:
    """Checks every image; those that cannot be shown are left out or refused.

    Args:
        paths: Image files.
        cache: Folder of caches. Images left out are listed there, in ``skipped-*.jsonl``, with path and reason.
        on_error: ``skip`` or ``raise``.

    Returns:
        list[str | None]: SHA-256 by path; None for an image that cannot be shown.

    Raises:
        UserError: A file is missing, or an image cannot be shown and ``on_error`` is ``raise``.
    """
    found = check_pictures(paths, cache)
    bad = [(path, image["reason"]) for path, image in zip(paths, found, strict=True) if "reason" in image]
    if bad and on_error == "raise":
        raise UserError(
            f"{bad[0][0]}: not readable as an image: {bad[0][1]} ({len(bad)} of {len(paths)} are not); "
            "mend or remove it, or set data.on_error=skip"
        )
    if bad:
        path = cache / f"skipped-{fingerprint([(ascii(str(image)), reason) for image, reason in bad])}.jsonl"
        counts = list_left_out(bad, path)
        log.warning("data: skipped %d images that cannot be shown (%s), listed in %s", len(bad), counts, path)
    return [None if "reason" in image else image["digest"] for image in found]


def list_left_out(entries: list[tuple[Path, str]], path: Path) -> str:
    """Writes paths with the reasons why they are left out, as JSON lines.

    Returns:
        str: How often each reason is given, most frequent first, for the log.
    """
    named = [(os.fsencode(image).decode(errors="backslashreplace"), reason) for image, reason in entries]
    lines = [json.dumps({"path": image, "reason": reason}, ensure_ascii=False) for image, reason in named]
    write_text(path, "".join(f"{line}\n" for line in lines))
    return ", ".join(f"{count} {reason}" for reason, count in Counter(r for _, r in entries).most_common())
