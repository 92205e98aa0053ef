"""Reader of Hugging Face's parquet files (``data/train-00000-of-00001.parquet``), unpacked once into the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.reading.dataset import Dataset
from data_prep.reading.finding import IMAGE_SUFFIXES, Findings, find_files, report_skipped
from data_prep.reading.rows import part_rows
from data_prep.reading.splits import split_of_archive
from data_prep.reading.tables import is_empty, label_text
from data_prep.reading.unpacked import ArchiveImage, ClassNames, unpack
from data_prep.settings import DataArgs


def read_features(schema: Any, file: Path) -> dict[str, dict]:
    """Returns the column features that the library ``datasets`` wrote; empty if another program wrote the file."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    if not metadata:
        return {}
    try:
        features = json.loads(metadata)["info"]["features"]
    except (ValueError, RecursionError, KeyError, TypeError):
        features = None
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise UserError(f"{file}: its metadata for Hugging Face's datasets is damaged; write the file again with it")
    return features


def _class_names(feature: dict, file: Path) -> ClassNames | None:
    """Returns the names of a ``ClassLabel``; None if the column is something else."""
    names = feature.get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: the names of its ClassLabel are not a list of strings: {names!r}; write it again")
    return ClassNames(names, "its ClassLabel")


def image_column(schema: Any, features: dict[str, dict], file: Path) -> str:
    """Returns the column of records with a field ``bytes``; of several, the one whose feature is ``Image``."""
    import pyarrow

    with_bytes = [f.name for f in schema if pyarrow.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    image_features = [name for name in with_bytes if features.get(name, {}).get("_type") == "Image"]
    for columns in (image_features, with_bytes):
        if len(columns) == 1:
            return columns[0]
    known = ", ".join(schema.names)
    raise UserError(f"{file}: needs one column of images (records with bytes), but has {known}")


def _read_file(file: Path, split: str, column: str) -> Iterator[ArchiveImage]:
    import pyarrow.parquet

    with open(file, "rb") as stream:  # pyarrow would interpret a path with a colon as a URI
        table = pyarrow.parquet.ParquetFile(stream)
        schema = table.schema_arrow
        features = read_features(schema, file)
        image = image_column(schema, features, file)
        if column not in schema.names:
            known = ", ".join(schema.names)
            raise UserError(f"{file}: no column {column} (columns: {known}); set data.label_column to the class's")
        names = _class_names(features.get(column, {}), file)
        cells = (row for batch in table.iter_batches(256, columns=[image, column]) for row in batch.to_pylist())
        for number, row in enumerate(cells):
            yield _parse_row(row[image], row[column], names, split, f"{file}, row {number}")


def _parse_row(cell: dict | None, label: object, names: ClassNames | None, split: str, where: str) -> ArchiveImage:
    if not cell or not cell["bytes"] or is_empty(label):
        raise UserError(f"{where}: no image bytes or no class")
    if names and isinstance(label, int):
        name, twin = names.by_index(label, where)
    else:
        name, twin = label_text(label, where), 0
        if names:
            name, twin = names.by_name(name, where)
    suffix = Path(cell.get("path") or "").suffix.lower()
    return ArchiveImage(cell["bytes"], suffix if suffix in IMAGE_SUFFIXES else "", name, split, twin)


def _read_images(root: Path, files: list[Path], column: str) -> Iterator[ArchiveImage]:
    import pyarrow

    for file in files:
        try:
            yield from _read_file(file, split_of_archive(file, root), column)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file}: not readable as parquet ({error})") from None


def read_parquet(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads ``*.parquet`` below ``data.root``; a file's split is in its name or its folder's.

    Class names are those of the file's ``ClassLabel``, or the values of the column ``data.label_column``.

    Raises:
        UserError: pyarrow is not installed, there are no files, one is damaged or lacks a column, or an error of
            ``read_folder``.
    """
    root = Path(args.root or "")
    findings = find_files(root, ".parquet") if args.root else Findings()
    if not findings.files:
        raise UserError(f"data.root={args.root}: data.name=parquet needs a folder that holds .parquet files")
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("data.name=parquet needs pyarrow: pip install 'rar-train[parquet]'") from None
    images = _read_images(root, findings.files, args.label_column)
    folder, rows = unpack(images, findings.files, [args.label_column], cache)
    report_skipped(findings.passed, cache)
    return part_rows(folder, rows, args, cache, parts)
