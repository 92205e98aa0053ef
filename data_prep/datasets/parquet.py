"""Hugging Face's parquet files (``data/train-00000-of-00001.parquet``), unpacked once into the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.datasets.dataset import Dataset
from data_prep.datasets.folder import IMAGE_SUFFIXES, part_rows
from data_prep.datasets.unpacked import Picture, split_of, unpack
from data_prep.errors import UserError
from data_prep.settings import DataArgs


def _features(schema: Any) -> dict[str, dict]:
    """What the library ``datasets`` wrote about the columns; empty where another wrote the file."""
    notes = (schema.metadata or {}).get(b"huggingface")
    return json.loads(notes).get("info", {}).get("features", {}) if notes else {}


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

    table = pyarrow.parquet.ParquetFile(file)
    schema = table.schema_arrow
    features = _features(schema)
    image = _image_column(schema, features, file)
    if column not in schema.names:
        known = ", ".join(schema.names)
        raise UserError(f"{file}: no column {column} (columns: {known}); set data.label_column to the class's")
    names = features.get(column, {}).get("names")
    cells = (row for batch in table.iter_batches(256, columns=[image, column]) for row in batch.to_pylist())
    for number, row in enumerate(cells):
        cell, label = row[image], row[column]
        if names is not None:
            label = names[label] if isinstance(label, int) and 0 <= label < len(names) else None
        if not cell or not cell["bytes"] or label in (None, ""):
            raise UserError(f"{file}, row {number}: no image bytes, or no class that the file names")
        suffix = Path(cell.get("path") or "").suffix.lower()
        yield Picture(cell["bytes"], suffix if suffix in IMAGE_SUFFIXES else "", str(label), split)


def _pictures(root: Path, files: list[Path], column: str) -> Iterator[Picture]:
    import pyarrow

    for file in files:
        try:
            yield from _of_file(file, split_of(file, root), column)
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
    files = sorted(root.rglob("*.parquet")) if args.root else []
    if not files:
        raise UserError(f"data.root={args.root}: data.name=parquet needs a folder that holds .parquet files")
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("data.name=parquet needs pyarrow: pip install 'rar-train[parquet]'") from None
    folder, rows = unpack(_pictures(root, files, args.label_column), files, [args.label_column], cache)
    return part_rows(folder, rows, args, cache, parts)
