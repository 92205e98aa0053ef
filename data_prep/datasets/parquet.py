"""Hugging Face's parquet files (``data/train-00000-of-00001.parquet``), unpacked once into the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.reading.dataset import Dataset
from data_prep.reading.finding import IMAGE_SUFFIXES, Findings, find_files, report_passed
from data_prep.reading.rows import part_rows
from data_prep.reading.splits import split_of_archive
from data_prep.reading.tables import is_empty, label_text
from data_prep.reading.unpacked import ClassNames, Picture, unpack
from data_prep.settings import DataArgs


def _features(schema: Any, file: Path) -> dict[str, dict]:
    """What the library ``datasets`` wrote about the columns; empty where another wrote the file."""
    notes = (schema.metadata or {}).get(b"huggingface")
    if not notes:
        return {}
    try:
        features = json.loads(notes)["info"]["features"]
    except (ValueError, RecursionError, KeyError, TypeError):
        features = None
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise UserError(f"{file}: its metadata for Hugging Face's datasets is damaged; write the file again with it")
    return features


def _class_names(feature: dict, file: Path) -> ClassNames | None:
    """The names of a ``ClassLabel``; None where the column is something else."""
    names = feature.get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: the names of its ClassLabel are no list of texts: {names!r}")
    return ClassNames(names, "its ClassLabel")


def _image_column(schema: Any, features: dict[str, dict], file: Path) -> str:
    """The column of records that hold ``bytes``; of several, the one noted as images."""
    import pyarrow

    shaped = [f.name for f in schema if pyarrow.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    noted = [name for name in shaped if features.get(name, {}).get("_type") == "Image"]
    for found in (noted, shaped):
        if len(found) == 1:
            return found[0]
    known = ", ".join(schema.names)
    raise UserError(f"{file}: needs one column of images (records with bytes), but has {known}")


def _of_file(file: Path, split: str, column: str) -> Iterator[Picture]:
    import pyarrow.parquet

    with open(file, "rb") as opened:  # given a path, pyarrow would look for a scheme in it
        table = pyarrow.parquet.ParquetFile(opened)
        schema = table.schema_arrow
        features = _features(schema, file)
        image = _image_column(schema, features, file)
        if column not in schema.names:
            known = ", ".join(schema.names)
            raise UserError(f"{file}: no column {column} (columns: {known}); set data.label_column to the class's")
        names = _class_names(features.get(column, {}), file)
        cells = (row for batch in table.iter_batches(256, columns=[image, column]) for row in batch.to_pylist())
        for number, row in enumerate(cells):
            yield _picture(row[image], row[column], names, split, f"{file}, row {number}")


def _picture(cell: dict | None, label: object, names: ClassNames | None, split: str, where: str) -> Picture:
    if not cell or not cell["bytes"] or is_empty(label):
        raise UserError(f"{where}: no image bytes, or no class that the file names")
    if names and isinstance(label, int):
        name, twin = names.at(label, where)
    else:
        name, twin = label_text(label, where), 0
        if names:
            name, twin = names.called(name, where)
    suffix = Path(cell.get("path") or "").suffix.lower()
    return Picture(cell["bytes"], suffix if suffix in IMAGE_SUFFIXES else "", name, split, twin)


def _pictures(root: Path, files: list[Path], column: str) -> Iterator[Picture]:
    import pyarrow

    for file in files:
        try:
            yield from _of_file(file, split_of_archive(file, root), column)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file}: not readable as parquet ({error})") from None


def read_parquet(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads ``*.parquet`` below ``data.root``; a file's split is in its name or its folder's.

    Class names are those of the file's ``ClassLabel``, or the values of the column ``data.label_column``.

    Raises:
        UserError: pyarrow is not installed, no files, a damaged one, columns that are not there, or what ``folder``
            refuses.
    """
    root = Path(args.root or "")
    found = find_files(root, ".parquet") if args.root else Findings()
    if not found.files:
        raise UserError(f"data.root={args.root}: data.name=parquet needs a folder that holds .parquet files")
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("data.name=parquet needs pyarrow: pip install 'rar-train[parquet]'") from None
    pictures = _pictures(root, found.files, args.label_column)
    folder, rows = unpack(pictures, found.files, [args.label_column], cache)
    report_passed(found.passed, cache)
    return part_rows(folder, rows, args, cache, parts)
