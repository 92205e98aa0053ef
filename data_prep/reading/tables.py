"""Reads hand-made tables (CSV and JSON lines), and validates their class and path cells."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.core.errors import UserError


def _csv_records(table: Path, file: Iterator[str]) -> Iterator[tuple[int, object]]:
    reader = csv.DictReader(file)
    header = reader.fieldnames or []
    if len(header) == 1 and (delimiter := next((character for character in ";\t|" if character in header[0]), "")):
        raise UserError(f"{table}: its columns are separated by {delimiter!r}; the delimiter must be a comma")
    for record in reader:
        if None in record:
            raise UserError(
                f"{table}, line {reader.line_num}: more cells than columns; a cell with a comma needs quotes"
            )
        yield reader.line_num, record


def _parse(table: Path) -> Iterator[tuple[int, object]]:
    with open(table, newline="", encoding="utf-8-sig") as file:
        if table.suffix == ".csv":
            yield from _csv_records(table, file)
            return
        for number, line in enumerate(file, 1):
            try:
                if line.strip():
                    yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{table}, line {number}: not readable as JSON ({error})") from None


def read_records(table: Path) -> list[tuple[int, object]]:
    """Reads the records of a CSV or JSON-lines table, each with its line number.

    Raises:
        UserError: The table is not readable in the format of its suffix.
    """
    try:
        return list(_parse(table))
    except UnicodeDecodeError as error:
        raise UserError(f"{table}: not readable as UTF-8 ({error}); save it in that encoding") from None
    except (csv.Error, OSError) as error:
        raise UserError(f"{table}: not readable ({error})") from None


def label_text(value: object, where: str) -> str:
    """Converts a cell of a table or archive to a class name.

    Args:
        value: A string, a number, or UTF-8 bytes.
        where: File and record, for the error.

    Raises:
        UserError: The value is something else, such as a list, or not UTF-8.
    """
    try:
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, str):
            value.encode()  # a folder's name can contain bytes that are not UTF-8
            return value
    except UnicodeError:
        raise UserError(f"{where}: the class name {value!r} is not UTF-8; rename it") from None
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else str(value)
    raise UserError(f"{where}: the class {value!r} is neither a string nor a number; an image has one class")


def is_empty(cell: object) -> bool:
    """Returns whether a cell is missing, blank or NaN."""
    return (
        cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell))
    )


def path_text(value: object, base: Path, where: str) -> str:
    """Converts a cell of a table to a file's path, with ``/`` between folders.

    Args:
        value: The cell.
        base: The folder that the path is relative to.
        where: File and record, for the error.

    Raises:
        UserError: The value is not a string.
    """
    if not isinstance(value, str):
        raise UserError(f"{where}: the path {value!r} is not a string")
    return PurePosixPath(with_slashes(value, base)).as_posix()


def with_slashes(path: str, base: Path) -> str:
    """Replaces the backslashes of a path that was written on Windows, unless a file with backslashes exists."""
    if "\\" not in path or os.path.lexists(base / path):
        return path
    return path.replace("\\", "/")
