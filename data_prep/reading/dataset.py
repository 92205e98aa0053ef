"""The data set type that readers return, and the check that every image exists and decodes."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, read_sealed, write_sealed, write_text
from data_prep.core.images import VERSION, optional_decoders
from data_prep.core.progress import progress_bar
from data_prep.core.records import Sample
from data_prep.reading.checked import check_image

log = logging.getLogger(__name__)

PARTS = ("train", "val_memory", "val", "test_memory", "test")


@dataclass(frozen=True)
class Dataset:
    """Labelled images by part.

    Attributes:
        name: Name of the data set, for logs and result rows.
        names: Class names by label.
        parts: Samples of the requested parts.
        skipped: Number of images left out, by reason.
        synonyms: Other names of a class by label, where the data set has them.
        descriptions: Texts that say what a class looks like, by label, for the classes that have any.
        templates: The data set's own prompt templates, for a recipe that names none.
        unnumbered: Class names as the data set has them, where ``names`` numbers classes that share a name.
        pools: Samples of the parts that are limited to some classes, with those of the other classes: shots are sampled
            from these.
    """

    name: str
    names: tuple[str, ...]
    parts: dict[str, list[Sample]]
    skipped: Counter = field(default_factory=Counter)
    synonyms: dict[int, tuple[str, ...]] = field(default_factory=dict)
    descriptions: dict[int, tuple[str, ...]] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    unnumbered: tuple[str, ...] = ()
    pools: dict[str, list[Sample]] = field(default_factory=dict)

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each class in the encoder's prompts: classes that share a name share a text and an embedding."""
        return self.unnumbered or self.names

    @property
    def first_descriptions(self) -> dict[str, str]:
        """The first description of each class that has any, by its name, for prompts."""
        return {self.names[label]: texts[0] for label, texts in self.descriptions.items()}

    def labels(self, part: str) -> list[int]:
        """Returns the labels that occur in a part, ascending."""
        return sorted({sample.label for sample in self.parts[part]})


def sample_key(path: str) -> str:
    """Returns a sample's key from its relative path: letters, digits, ``-`` and ``_`` are kept.

    A short hash of the path keeps keys distinct where the readable part is the same.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", path.rsplit(".", 1)[0])[-80:]
    return f"{readable}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def find_missing(paths: list[Path]) -> list[Path]:
    """Returns the paths that do not exist; a broken link exists."""
    return [path for path, stamp in zip(paths, map(_file_stamp, paths), strict=True) if stamp is None]


def _file_stamp(path: Path) -> list | None:
    """Returns what identifies a checked file: size and times, or why they cannot be read; None if it is missing."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ["broken link"] if path.is_symlink() else None
    except (OSError, ValueError) as error:
        return [str(error)]
    # The change time too: copying or unpacking another file over this one may restore the old modification time.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def check_images(paths: list[Path], cache: Path) -> list[dict[str, str]]:
    """Decodes every image once and hashes its bytes; caches the result by path, size and times.

    Args:
        paths: Image files.
        cache: Folder of caches.

    Returns:
        list[dict[str, str]]: The result of ``check_image`` for each path.

    Raises:
        UserError: A file is missing, or the cached result is damaged.
    """
    stamps = [_file_stamp(path) for path in paths]
    missing = [path for path, stamp in zip(paths, stamps, strict=True) if stamp is None]
    if missing:
        raise UserError(f"{missing[0]}: no such image ({len(missing)} of {len(paths)} are missing)")
    cached = cache / f"digests-{_hash_stamps(paths, stamps)}.json"
    if cached.exists():
        return read_sealed(cached)
    log.info("data: checking %d images", len(paths))
    with ThreadPoolExecutor() as pool:
        results = list(progress_bar("checking images", pool.map(check_image, paths), len(paths)))
    write_sealed(cached, results)
    return results


def _hash_stamps(paths: list[Path], stamps: list) -> str:
    files = [(ascii(str(path.absolute())), stamp) for path, stamp in zip(paths, stamps, strict=True)]
    return fingerprint([VERSION, optional_decoders(), files])


def hash_images(paths: list[Path], cache: Path, on_error: str) -> list[str | None]:
    """Checks every image; those that cannot be decoded are left out or raise an error.

    Args:
        paths: Image files.
        cache: Folder of caches. Images left out are listed there, in ``skipped-*.jsonl``, with path and reason.
        on_error: ``skip`` or ``raise``.

    Returns:
        list[str | None]: The SHA-256 of each path; None for an image that cannot be decoded.

    Raises:
        UserError: A file is missing, or an image cannot be decoded and ``on_error`` is ``raise``.
    """
    checks = check_images(paths, cache)
    bad = [(path, check["reason"]) for path, check in zip(paths, checks, strict=True) if "reason" in check]
    if bad and on_error == "raise":
        raise UserError(
            f"{bad[0][0]}: not readable as an image: {bad[0][1]} ({len(bad)} of {len(paths)} are not); "
            "replace or remove it, or set data.on_error=skip"
        )
    if bad:
        path = cache / f"skipped-{fingerprint([(ascii(str(image)), reason) for image, reason in bad])}.jsonl"
        list_left_out(bad, path)
        images = "1 image" if len(bad) == 1 else f"{len(bad):,} images"
        message = (
            f"data: skipped {images} that cannot be shown ({count_reasons(bad)}), such as {printable(bad[0][0])}; "
            f"listed in {path}"
        )
        log_once(log, logging.WARNING, message)
    return [None if "reason" in check else check["digest"] for check in checks]


@functools.cache
def log_once(logger: logging.Logger, level: int, message: str) -> None:
    """Logs a line unless this process has logged the same before: a command reads its data several times."""
    logger.log(level, "%s", message)


def count_suffixes(paths: Iterable[Path]) -> str:
    """Returns how many files have which suffix, most frequent first, such as ``12 .jpg, 3 .heic``."""
    suffixes = Counter(path.suffix.lower() or "without suffix" for path in paths)
    return ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common())


def count_reasons(entries: Iterable[tuple[Path, str]]) -> str:
    """Returns how many files were left out for which reason and with which suffixes, most frequent first."""
    by_reason: dict[str, list[Path]] = {}
    for path, reason in entries:
        by_reason.setdefault(reason, []).append(path)
    texts = []
    for reason, paths in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        suffixes = count_suffixes(path for path in paths if path.suffix)
        texts.append(f"{len(paths):,} {reason}" + (f": {suffixes}" if suffixes else ""))
    return "; ".join(texts)


def printable(path: Path) -> str:
    """Returns a path as text, with escapes for bytes that are not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def list_left_out(entries: list[tuple[Path, str]], path: Path) -> None:
    """Writes the paths that were left out and the reasons, as JSON lines."""
    lines = [json.dumps({"path": printable(image), "reason": why}, ensure_ascii=False) for image, why in entries]
    write_text(path, "".join(f"{line}\n" for line in lines))
