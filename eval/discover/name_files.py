"""Class names from a file, as others discovered them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.results_file import check_result
from data_prep.prompting.guesses import count_names
from data_prep.reading.tables import read_records

_KINDS = "a .txt file with a name a line, a .json list, or .csv or .jsonl with the column name"


def _listed(path: Path) -> list[tuple[int, Any]]:
    """The names or records of a file, each with the number of its line or place."""
    if path.suffix == ".txt":
        return list(enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1))
    if path.suffix == ".json":
        found = read_json(path)
        if not isinstance(found, list):
            raise UserError(f"{path}: should be a list of names")
        return list(enumerate(found, 1))
    if path.suffix in (".csv", ".jsonl"):
        return read_records(path)
    raise UserError(f"{path}: give {_KINDS}")


def _name(path: Path, number: int, value: Any) -> str:
    if isinstance(value, dict):
        if "predicted" in value:
            raise UserError(f"{path}: holds a guess per image; score it by python -m eval.clustering --names {path}")
        value = value.get("name")
    if not isinstance(value, str):
        raise UserError(f"{path}, {number}: no name; give {_KINDS}")
    return value.strip()


def read_vocabulary(path: Path) -> dict[str, int]:
    """Names by how often they stand in a file: FineR's lists, ``names.jsonl`` of ``eval.discover``, anyone's.

    Args:
        path: Text lines, a JSON list of names or of objects with ``name``, CSV or JSON lines with ``name``.

    Returns:
        dict[str, int]: In alphabetical order; spellings that differ in case or white space alone are one name.

    Raises:
        UserError: The file is missing, of another kind, or holds no names; or it is a discovery's and damaged.
    """
    if not path.is_file():
        raise UserError(f"--names {path}: no such file")
    check_result(path)
    try:
        names = [_name(path, number, value) for number, value in _listed(path)]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not readable as UTF-8 ({error})") from None
    found = count_names([name] for name in names if name)
    if not found:
        raise UserError(f"{path}: holds no names")
    return found


def names_lines(votes: dict[str, int], guessed: dict[str, int], seed: int) -> list[dict]:
    """Records of ``names.jsonl``, most votes first."""
    order = Counter(votes).most_common()
    return [{"name": name, "votes": count, "guessed": guessed.get(name, 0), "seed": seed} for name, count in order]
