"""Reads RAR's native JSON, as the paper's authors publish it, into shards of ranking examples."""

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
    """A record that is no ranking example; says why."""


def _names(text: str) -> list[str]:
    """A Python-style list of names."""
    try:
        names = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        raise _Unreadable("a list of names does not parse") from None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise _Unreadable("a list of names does not parse")
    return names


def read_record(record: dict, root: Path) -> tuple[Path, list[str], str]:
    """The picture, the candidates' names in the order shown, and the true name of a record.

    Raises:
        _Unreadable: It is not a ranking example with one picture that is there.
    """
    try:
        images = record["image"]
        user, assistant = (turn["value"] for turn in record["conversations"])
        (image,) = [images] if isinstance(images, str) else images
    except (KeyError, TypeError, ValueError):
        raise _Unreadable("not one image and two turns") from None
    _, found, listed = user.partition(_CATEGORIES)
    if not found:
        raise _Unreadable("the prompt lists no categories")
    shown, answer = _names(listed.strip().removesuffix(".")), _names(assistant)
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
    """Imports a list.

    Args:
        file: RAR's native JSON.
        root: Folder that its image paths start from; absolute paths stay.
        to: A folder of shards to write; it must not exist.
        shard_size: Examples per shard.

    Returns:
        dict[str, int]: Records by outcome.

    Raises:
        UserError: The file is no such list, the folder exists, or no record is readable.
    """
    if to.exists():
        raise UserError(f"--to {to}: exists; choose another folder")
    counts: Counter = Counter()
    rows = list(_rows(read_list(file), root, file, counts))
    if not rows:
        raise UserError(f"{file}: no record is a ranking example ({dict(counts)})")
    classes = sorted({name for _, _, shown, _ in rows for name in shown})
    label_of = {name: label for label, name in enumerate(classes)}
    digest_of = lru_cache(maxsize=None)(file_hash)  # windows share an image
    pairs = []
    for number, path, shown, truth in rows:
        # The file holds no scores: places stand for them.
        candidates = tuple(Candidate(label_of[name], name, -float(place)) for place, name in enumerate(shown))
        key = f"{sample_key(str(path))}-{number:06d}"
        sample = Sample(key, str(path), label_of[truth], digest_of(path))
        pairs.append((RankingExample(key, label_of[truth], candidates), sample))
    metadata = {"part": "train", "dataset": file.stem, "encoder": "", "classes": len(classes), "counts": dict(counts)}
    with write_folder(to) as place:
        metadata["mined"] = write_mined(place, (sample.digest for _, sample in pairs))
        write_shards(place, pairs, shard_size, metadata)
    log.info("import: %s", ", ".join(f"{count} {reason}" for reason, count in counts.items()))
    return dict(counts)


def _rows(records: list[dict], root: Path, file: Path, counts: Counter) -> Iterator[tuple[int, Path, list[str], str]]:
    """The readable records with their numbers; the first of each kind that is not is named."""
    for number, record in enumerate(records):
        try:
            path, shown, truth = read_record(record, root)
        except _Unreadable as error:
            reason = f"dropped: {error}"
            if not counts[reason]:
                log.warning("%s: record %d: %s", file, number, error)
            counts[reason] += 1
        else:
            counts["imported"] += 1
            yield number, path, shown, truth
