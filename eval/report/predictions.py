"""``predictions.jsonl.gz``: one line of JSON per image, memory and method, with classes by number.

The first line lists the class names and the image files, ``{"classes": [...], "paths": {...}}``. The other lines give a
class by its position in that list, an image by its key, and have null for candidates that are those of the line before.
``read_predictions`` puts all back::

    import pandas
    from eval.report.predictions import read_predictions

    frame = pandas.DataFrame(read_predictions("runs/ranker_lora/eval/test-letters"))
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from data_prep.core.errors import UserError
from data_prep.core.files import write_gzip

PREDICTIONS = "predictions.jsonl.gz"
"""Name of the file, next to ``results.json``."""


def relative_paths(files: Mapping[str, str], root: str | None) -> tuple[str, dict[str, str]]:
    """Makes paths relative to a folder: ``root`` where it holds all of them, else the deepest one that does.

    Args:
        files: Paths by key.
        root: A folder, or None.

    Returns:
        tuple[str, dict[str, str]]: The folder, absolute, and the paths by key, with slashes.
    """
    top = None if root is None else Path(root).absolute()
    absolute = {key: Path(path).absolute() for key, path in files.items()}
    folder = Path(os.path.commonpath({str(path.parent) for path in absolute.values()})) if files else top or Path.cwd()
    if top is not None and folder.is_relative_to(top):
        folder = top
    start = len(str(folder).rstrip(os.sep)) + 1
    return str(folder), {key: str(path)[start:].replace(os.sep, "/") for key, path in absolute.items()}


def write_predictions(
    folder: Path,
    names: Sequence[str],
    records: Iterable[Mapping[str, Any]],
    paths: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes predictions as they come.

    Args:
        folder: Folder of the evaluation.
        names: Names of all classes.
        records: As ``read_predictions`` yields them, without ``path``. Numbers are not rounded.
        paths: Image files by key, from ``relative_paths``.
    """
    numbers = {name: number for number, name in enumerate(names)}
    lines = _without_repeats(_with_numbers(records, numbers))
    head = {"classes": list(names), "paths": dict(paths)}
    write_gzip(folder / PREDICTIONS, map(_to_json, chain([head], lines)))


def _without_repeats(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Replaces candidates and scores that are those of the last line that had any by null."""
    last = None
    for line in lines:
        if "candidates" in line:
            lists = line["candidates"], line["scores"]
            if lists == last:
                line["candidates"] = None
                del line["scores"]
            last = lists
        yield line


def _with_repeats(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Puts back what ``_without_repeats`` left out."""
    last: tuple[list[int], list[float]] = [], []
    for line in lines:
        if "candidates" in line and line["candidates"] is None:
            line["candidates"], line["scores"] = last
        elif "candidates" in line:
            last = line["candidates"], line["scores"]
        yield line


def _to_json(record: Mapping[str, Any]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _with_numbers(records: Iterable[Mapping[str, Any]], numbers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    candidates, lists = None, ([], [])
    for record in records:
        line = dict(record, truth=numbers[record["truth"]], ranking=[numbers[name] for name in record["ranking"]])
        if "candidates" in record:
            if record["candidates"] is not candidates:  # several records may share one list
                candidates = record["candidates"]
                lists = [numbers[c["name"]] for c in candidates], [c["score"] for c in candidates]
            line["candidates"], line["scores"] = lists
        yield line


def _with_names(line: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    line["truth"], line["ranking"] = names[line["truth"]], [names[number] for number in line["ranking"]]
    if "candidates" in line:
        pairs = zip(line["candidates"], line.pop("scores"), strict=True)
        line["candidates"] = [{"name": names[number], "score": score} for number, score in pairs]
    return line


def read_predictions(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Reads an evaluation's predictions one by one.

    Args:
        folder: Folder of the evaluation.

    Yields:
        dict: ``key``, ``path`` (relative to ``root`` in ``pictures.json``), ``task``, ``shots``, ``seed``, ``method``,
        ``truth`` and ``ranking``, names best first. Rankers
        have ``candidates``, a list of ``name`` and ``score`` in the retriever's order, ``probabilities`` in the same
        order, ``outcome`` and ``reply``, and where candidates were shown, ``asked``: each order ``shown``, and what was
        ranked ``first``, as positions. A memory that lacks classes has ``known`` and ``signals``.

    Raises:
        UserError: The file is missing, or a line is not a prediction.
    """
    path = Path(folder) / PREDICTIONS
    if not path.is_file():
        raise UserError(f"{path}: no such file; run python -m eval.run first, which writes it")
    number = 1
    try:
        with gzip.open(path, "rb") as lines:
            head = orjson.loads(next(lines))
            names, paths = head["classes"], head.get("paths", {})
            for line in _with_repeats(map(orjson.loads, lines)):
                number += 1
                record = _with_names(line, names)
                if line["key"] in paths:
                    record["path"] = paths[line["key"]]
                yield record
    except (ValueError, KeyError, TypeError, IndexError, StopIteration, OSError, EOFError, zlib.error) as error:
        raise not_a_prediction(path, number, error) from None


def not_a_prediction(path: Path, line: int, error: Exception) -> UserError:
    """Returns the error for a line that cannot be read."""
    problem = f"{type(error).__name__}: {error}"
    return UserError(f"{path}, line {line}: no prediction of eval.run ({problem}); run it again")
