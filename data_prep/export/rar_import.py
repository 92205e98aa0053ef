"""Converts RAR's native JSON, as published by the paper's authors, into shards of ranking examples."""

from __future__ import annotations

import ast
import logging
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, write_folder
from data_prep.core.images import ImageError, open_image
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.export.conversation import read_list
from data_prep.leakage.contamination import write_mined
from data_prep.mining.shards import write_shards
from data_prep.reading.dataset import sample_key

log = logging.getLogger(__name__)

_CATEGORIES = "optional categories:"


class _Unreadable(Exception):
    """A record is not a ranking example; the message says why."""


def _parse_names(text: str) -> list[str]:
    """Parses a Python-style list of names."""
    try:
        names = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        raise _Unreadable("a list of names does not parse") from None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise _Unreadable("a list of names does not parse")
    return names


def read_record(record: dict, root: Path) -> tuple[Path, list[str], str]:
    """Returns the image's path, the candidates' names in the order shown, and the true name of a record.

    Raises:
        _Unreadable: It is not a ranking example with one image that exists and decodes.
    """
    try:
        images = record["image"]
        user, assistant = (turn["value"] for turn in record["conversations"])
        (image,) = [images] if isinstance(images, str) else images
    except (KeyError, TypeError, ValueError):
        raise _Unreadable("not one image and two turns") from None
    _, marker, listed = user.partition(_CATEGORIES)
    if not marker:
        raise _Unreadable("the prompt lists no categories")
    shown, answer = _parse_names(listed.strip().removesuffix(".")), _parse_names(assistant)
    if answer[0] not in shown:
        raise _Unreadable("the answer's first name is no candidate")
    path = root / image
    if not path.is_file():
        raise _Unreadable("the image is missing")
    try:
        open_image(path)
    except ImageError:
        raise _Unreadable("the image does not decode") from None
    return path, shown, answer[0]


def import_rar(file: Path, root: Path, to: Path, shard_size: int = 1000) -> dict[str, int]:
    """Imports a list into a folder of shards.

    Args:
        file: RAR's native JSON.
        root: Folder that the image paths are relative to; absolute paths stay as they are.
        to: Folder to write the shards to; it must not exist.
        shard_size: Examples per shard.

    Returns:
        dict[str, int]: Number of records by outcome.

    Raises:
        UserError: The file is not such a list, the folder exists, or no record is readable.
    """
    if to.exists():
        raise UserError(f"--to {to}: exists; choose another folder")
    counts: Counter = Counter()
    rows = list(_read_rows(read_list(file), root, file, counts))
    if not rows:
        raise UserError(f"{file}: no record is a ranking example ({dict(counts)})")
    classes = sorted({name for _, _, shown, _ in rows for name in shown})
    label_of = {name: label for label, name in enumerate(classes)}
    cached_hash = lru_cache(maxsize=None)(file_hash)  # several examples share an image
    pairs = []
    for index, path, shown, truth in rows:
        # The file has no scores: negative positions replace them.
        candidates = tuple(Candidate(label_of[name], name, -float(position)) for position, name in enumerate(shown))
        key = f"{sample_key(str(path))}-{index:06d}"
        sample = Sample(key, str(path), label_of[truth], cached_hash(path))
        pairs.append((RankingExample(key, label_of[truth], candidates), sample))
    metadata = {"part": "train", "dataset": file.stem, "encoder": "", "classes": len(classes), "counts": dict(counts)}
    with write_folder(to) as unfinished:
        metadata["mined"] = write_mined(unfinished, (sample.digest for _, sample in pairs))
        write_shards(unfinished, pairs, shard_size, metadata)
    log.info("import: %s", ", ".join(f"{count} {reason}" for reason, count in counts.items()))
    return dict(counts)


def _read_rows(
    records: list[dict], root: Path, file: Path, counts: Counter
) -> Iterator[tuple[int, Path, list[str], str]]:
    """Yields the readable records with their index; counts outcomes, and logs the first of each kind of failure."""
    for index, record in enumerate(records):
        try:
            path, shown, truth = read_record(record, root)
        except _Unreadable as error:
            reason = f"dropped: {error}"
            if not counts[reason]:
                log.warning("%s: record %d: %s", file, index, error)
            counts[reason] += 1
        else:
            counts["imported"] += 1
            yield index, path, shown, truth
