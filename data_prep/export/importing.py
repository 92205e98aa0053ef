"""Converts other trainers' ranking sets, such as RAR's native JSON, into shards of ranking examples."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, write_folder
from data_prep.core.images import ImageError, open_image
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.core.rng import rng_for
from data_prep.export.conversation import read_list
from data_prep.export.parsing import Parsed, Unreadable, parse_record
from data_prep.leakage.contamination import write_mined
from data_prep.mining.shards import write_shards
from data_prep.reading.dataset import sample_key

log = logging.getLogger(__name__)


def import_examples(format_name: str, file: Path, root: Path, to: Path, shard_size: int = 1000) -> dict[str, int]:
    """Imports a file of records into a folder of shards.

    Args:
        format_name: A format of ``data_prep.import_examples``.
        file: The records, as a JSON list or as JSON lines.
        root: Folder that the image paths are relative to; absolute paths stay as they are.
        to: Folder to write the shards to; it must not exist.
        shard_size: Examples per shard.

    Returns:
        dict[str, int]: Number of examples and of dropped records, by outcome.

    Raises:
        UserError: The file is not such a list, the folder exists, or no record is readable.
    """
    if to.exists():
        raise UserError(f"--to {to}: exists; choose another folder")
    counts: Counter = Counter()
    rows = list(_read_rows(format_name, _read_records(file), root, file, counts))
    if not rows:
        raise UserError(f"{file}: no record is a ranking example ({dict(counts)})")
    classes = sorted({name for _, _, parsed in rows for name in parsed.names})
    label_of = {name: label for label, name in enumerate(classes)}
    cached_hash = lru_cache(maxsize=None)(file_hash)  # several examples share an image
    pairs = []
    for number, path, parsed in rows:
        key = f"{sample_key(str(path))}-{number}"
        # The file has no scores: negative positions replace them.
        names = enumerate(_ordered(parsed, key))
        candidates = tuple(Candidate(label_of[name], name, -float(position)) for position, name in names)
        sample = Sample(key, str(path), label_of[parsed.truth], cached_hash(path))
        pairs.append((RankingExample(key, label_of[parsed.truth], candidates), sample))
    metadata = {"part": "train", "dataset": file.stem, "encoder": "", "classes": len(classes), "counts": dict(counts)}
    with write_folder(to) as unfinished:
        metadata["mined"] = write_mined(unfinished, (sample.digest for _, sample in pairs))
        write_shards(unfinished, pairs, shard_size, metadata)
    log.info("import: %s", ", ".join(f"{count} {reason}" for reason, count in counts.items()))
    return dict(counts)


def _read_records(file: Path) -> list:
    """Reads a JSON list, or JSON lines.

    Raises:
        UserError: The file is neither.
    """
    if file.suffix != ".jsonl":
        return read_list(file)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable as text ({error})") from None
    return [_read_line(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _read_line(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{file}, line {number}: not JSON ({error}); give a record per line") from None


def _ordered(parsed: Parsed, key: str) -> list[str]:
    """Returns the names in the file's order, or shuffled where that would tell which one is right."""
    if parsed.has_order:
        return list(parsed.names)
    order = rng_for("import", key).permutation(len(parsed.names))
    return [parsed.names[index] for index in order]


def _check_image(path: Path) -> None:
    if not path.is_file():
        raise Unreadable("the image is missing")
    try:
        open_image(path)
    except ImageError:
        raise Unreadable("the image does not decode") from None


def _read_rows(
    format_name: str, records: list, root: Path, file: Path, counts: Counter
) -> Iterator[tuple[str, Path, Parsed]]:
    """Yields the readable examples with a number; counts outcomes, and logs the first of each kind of failure."""
    for index, record in enumerate(records):
        try:
            examples = parse_record(format_name, record)
            for parsed in examples:
                _check_image(root / parsed.image)
        except Unreadable as error:
            reason = f"dropped: {error}"
            if not counts[reason]:
                log.warning("%s: record %d: %s", file, index, error)
            counts[reason] += 1
        else:
            counts["imported"] += len(examples)
            for number, parsed in enumerate(examples):
                suffix = f"-{number}" if number else ""
                yield f"{index:06d}{suffix}", root / parsed.image, parsed
