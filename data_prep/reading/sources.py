"""Decides what a path of classes is: a kept memory, a table, a list of names, or a folder of class folders."""

from __future__ import annotations

import csv
import json
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.reading.finding import file_mode

MANIFEST = Path("names", "manifest.json")
"""The only manifest of a kept memory. It is in the names' folder, since the names define the classes: at the top level
it describes the names, and under ``images`` and ``recipe`` the images and the recipe's file."""

TABLES = ("samples.csv", "samples.jsonl")


class SourceKind(StrEnum):
    """What a path of classes can be."""

    MEMORY = "a kept memory"
    TABLE = "a table"
    NAMES = "a list of names"
    FOLDERS = "a folder of class folders or splits"


@dataclass(frozen=True)
class Source:
    """A path of classes.

    Attributes:
        kind: What it is.
        path: The path; of a folder with a table, the table.
    """

    kind: SourceKind
    path: Path


def find_source(path: Path, shown: str) -> Source:
    """Decides what a path is; all commands that take classes or data of your own ask here.

    Args:
        path: A folder or file.
        shown: The path as the user gave it, with its key or option, for the error.

    Raises:
        UserError: There is nothing, or a file of another kind.
    """
    mode = file_mode(path)
    if not mode:
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"{shown}: no such folder or file{where}")
    if stat.S_ISREG(mode):
        return Source(_kind_of_file(path, shown), path)
    if not stat.S_ISDIR(mode):
        raise UserError(f"{shown}: neither a folder nor a file")
    if (path / MANIFEST).is_file():
        return Source(SourceKind.MEMORY, path)
    tables = [path / name for name in TABLES if (path / name).is_file()]
    return Source(SourceKind.TABLE, tables[0]) if tables else Source(SourceKind.FOLDERS, path)


def _kind_of_file(path: Path, shown: str) -> SourceKind:
    if path.suffix in (".txt", ".json"):
        return SourceKind.NAMES
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(
            f"{shown}: a file must be .csv or .jsonl, a table of path and label; or names: .txt with one per line, "
            ".json, .csv or .jsonl"
        )
    columns = _first_columns(path)
    return SourceKind.NAMES if "path" not in columns and {"name", "predicted"} & columns else SourceKind.TABLE


def _first_columns(table: Path) -> set[str]:
    """Returns the columns of a table by its first record; none where it is malformed, which its reader reports."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            if table.suffix == ".csv":
                return set(next(csv.reader(file), ()))
            record = json.loads(next((line for line in file if line.strip()), "{}"))
            return set(record) if isinstance(record, dict) else set()
    except (ValueError, RecursionError, OSError, csv.Error):
        return set()
