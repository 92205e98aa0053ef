"""Reads class names from files, such as names discovered by another system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.results_file import check_result
from data_prep.prompting.guesses import count_names
from data_prep.reading.tables import read_records

_FORMATS = "a .txt file with a name per line, a .json list, or .csv or .jsonl with the column name"


def _read_entries(path: Path) -> list[tuple[int, Any]]:
    """Reads the names or records of a file, each with its line number or position."""
    if path.suffix == ".txt":
        return list(enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1))
    if path.suffix == ".json":
        names = read_json(path)
        if not isinstance(names, list):
            raise UserError(f"{path}: should be a list of names")
        return list(enumerate(names, 1))
    if path.suffix in (".csv", ".jsonl"):
        return read_records(path)
    raise UserError(f"{path}: give {_FORMATS}")


def _parse_name(path: Path, number: int, value: Any) -> str:
    if isinstance(value, dict):
        if "predicted" in value:
            raise UserError(f"{path}: holds a guess per image; score it with python -m eval.clustering --names {path}")
        value = value.get("name")
    if not isinstance(value, str):
        raise UserError(f"{path}, {number}: no name; give {_FORMATS}")
    return value.strip()


def read_vocabulary(path: Path) -> dict[str, int]:
    """Reads names with their counts from a file: FineR's lists, ``names.jsonl`` of ``eval.discover``, or any other.

    Args:
        path: Text lines, a JSON list of names or of objects with ``name``, CSV or JSON lines with ``name``.

    Returns:
        dict[str, int]: In alphabetical order; spellings that differ in case or white space only are one name.

    Raises:
        UserError: The file is missing, damaged, of another kind, or contains no names.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    check_result(path)
    try:
        names = [_parse_name(path, number, value) for number, value in _read_entries(path)]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not readable as UTF-8 ({error})") from None
    counts = count_names([name] for name in names if name)
    if not counts:
        raise UserError(f"{path}: contains no names")
    return counts
