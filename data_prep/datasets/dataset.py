"""What a reader returns, and the check that every image is there, decodes and is known by content."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.errors import UserError
from data_prep.files import fingerprint, read_json, write_json, write_text
from data_prep.images import VERSION, ImageError, open_image
from data_prep.progress import bar
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


def key_of(path: str) -> str:
    """A sample's key from its relative path: letters, digits, ``-`` and ``_`` stay.

    A short hash of the path keeps keys distinct where the readable part would not.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", path.rsplit(".", 1)[0])[-80:]
    return f"{readable}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _check(path: Path) -> dict[str, str]:
    """The ``digest`` of an image file (SHA-256), or the ``reason`` why it cannot be shown."""
    data = path.read_bytes()
    try:
        open_image(data, str(path))
    except ImageError as error:
        return {"reason": error.reason}
    return {"digest": hashlib.sha256(data).hexdigest()}


def digests(paths: list[Path], cache: Path, on_error: str) -> list[str | None]:
    """Decodes every image once and hashes its bytes; the result is cached by path, size and time.

    Args:
        paths: Image files.
        cache: Folder of caches. Images left out are listed there, in ``skipped-*.jsonl``, with path and reason.
        on_error: ``skip`` or ``raise``.

    Returns:
        list[str | None]: SHA-256 by path; None for an image that cannot be shown.

    Raises:
        UserError: A file is missing, or an image cannot be shown and ``on_error`` is ``raise``.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: no such image ({len(missing)} of {len(paths)} are missing)")
    stats = [path.stat() for path in paths]
    listing = [VERSION, [(str(p), s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats, strict=True)]]
    kept = cache / f"digests-{fingerprint(listing)}.json"
    if kept.exists():
        found = read_json(kept)
    else:
        log.info("data: checking %d images", len(paths))
        with ThreadPoolExecutor() as pool:
            found = list(bar("checking images", pool.map(_check, paths), len(paths)))
        write_json(kept, found)
    bad = [(path, image["reason"]) for path, image in zip(paths, found, strict=True) if "reason" in image]
    if bad and on_error == "raise":
        raise UserError(
            f"{bad[0][0]}: not readable as an image: {bad[0][1]} ({len(bad)} of {len(paths)} are not); "
            "mend or remove it, or set data.on_error=skip"
        )
    if bad:
        _list_skipped(bad, cache / f"skipped-{fingerprint(listing)}.jsonl")
    return [image.get("digest") for image in found]


def _list_skipped(bad: list[tuple[Path, str]], path: Path) -> None:
    lines = [json.dumps({"path": str(image), "reason": reason}, ensure_ascii=False) for image, reason in bad]
    write_text(path, "".join(f"{line}\n" for line in lines))
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(r for _, r in bad).most_common())
    log.warning("data: skipped %d images that cannot be shown (%s), listed in %s", len(bad), counts, path)
