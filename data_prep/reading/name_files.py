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
_PICKLES = (".pkl", ".pickle", ".pth", ".pt")
_GUESSES = "guessed_classnames"
"""Key of an image's guesses in FiNDR's files: names by rank."""


def _read_entries(path: Path) -> list[tuple[int | str, Any]]:
    """Reads the names or records of a file, each with its line number, position or key."""
    if path.suffix == ".txt":
        return list(enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1))
    if path.suffix == ".json":
        content = read_json(path)
        return _read_object(path, content) if isinstance(content, dict) else _read_list(path, content)
    if path.suffix in (".csv", ".jsonl"):
        return list(read_records(path))
    if path.suffix in _PICKLES:
        raise UserError(
            f"{path}: a pickle, which could run code and is never loaded; where you trust it, write its names by "
            "json.dump(list(names), open('names.json', 'w'))"
        )
    raise UserError(f"{path}: give {_FORMATS}")


def _read_list(path: Path, content: Any) -> list[tuple[int | str, Any]]:
    if not isinstance(content, list):
        raise UserError(f"{path}: should be a list of names")
    return list(enumerate(content, 1))


def _read_object(path: Path, content: dict[str, Any]) -> list[tuple[int | str, Any]]:
    """Reads FiNDR's guesses by image, of which an image may have none, or E-FineR's sentences by name."""
    if content and all(isinstance(value, dict) and _GUESSES in value for value in content.values()):
        entries: list[tuple[int | str, Any]] = []
        for image, value in content.items():
            guesses = value[_GUESSES] or {}
            if not isinstance(guesses, dict):
                raise UserError(f"{path}, {image}: {_GUESSES} should be names by rank, such as {{'1': 'Siamese'}}")
            entries += [(image, name) for name in guesses.values()]
        return entries
    is_sentences = all(
        isinstance(value, list) and all(isinstance(text, str) for text in value) for value in content.values()
    )
    if content and is_sentences:
        return list(enumerate(content, 1))
    raise UserError(
        f"{path}: should be a list of names, FiNDR's {_GUESSES} by image, or E-FineR's lists of sentences by name"
    )


def _parse_name(path: Path, number: int | str, value: Any) -> str:
    if isinstance(value, dict):
        if "predicted" in value:
            raise UserError(f"{path}: holds a guess per image; score it with python -m eval.clustering --names {path}")
        value = value.get("name")
    if not isinstance(value, str):
        raise UserError(f"{path}, {number}: no name; give {_FORMATS}")
    return value.strip()


def read_vocabulary(path: Path) -> dict[str, int]:
    """Reads names with their counts from a file: FineR's, E-FineR's and FiNDR's, ``eval.discover``'s, or any other.

    Args:
        path: Text lines, a JSON list of names or of objects with ``name``, CSV or JSON lines with ``name``; FiNDR's
            ``data/guessed_classnames/*/*.json`` (guesses by image, each counted), or E-FineR's
            ``data/incontext_sentences/*/*_guessed_*.json`` (sentences by name, of which the names are read).

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
