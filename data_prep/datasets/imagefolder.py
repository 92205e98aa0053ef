"""Hugging Face's ``imagefolder``: images beside ``metadata.csv`` or ``metadata.jsonl``; without, a folder per class."""

from __future__ import annotations

import logging
from pathlib import Path

from data_prep.datasets.dataset import Dataset
from data_prep.datasets.folder import IMAGE_SUFFIXES, SPLIT_WORDS, Row, list_rows, part_rows, records_of
from data_prep.errors import UserError
from data_prep.settings import DataArgs

log = logging.getLogger(__name__)

METADATA = ("metadata.csv", "metadata.jsonl")


def _rows(root: Path, table: Path, label_column: str) -> list[Row]:
    """One metadata file's rows; a file in a folder named like a split speaks for that split."""
    split = next((SPLIT_WORDS[p.casefold()] for p in table.relative_to(root).parts if p.casefold() in SPLIT_WORDS), "")
    rows = []
    for number, record in records_of(table):
        for column in ("file_name", label_column):
            if not isinstance(record, dict) or record.get(column) in (None, ""):
                known = ", ".join(record) if isinstance(record, dict) else "none"
                raise UserError(
                    f"{table}, line {number}: no {column} (columns: {known}); "
                    "data.label_column says which column names the class"
                )
        if Path(record["file_name"]).is_absolute() or ".." in Path(record["file_name"]).parts:
            raise UserError(f"{table}, line {number}: {record['file_name']} lies outside the metadata's folder")
        path = (table.parent / record["file_name"]).relative_to(root).as_posix()
        inside = next((SPLIT_WORDS[p.casefold()] for p in Path(path).parts[:-1] if p.casefold() in SPLIT_WORDS), split)
        rows.append(Row(path, str(record[label_column]), inside))
    return rows


def read_imagefolder(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads a folder of images with metadata files, at its top or in folders named like splits.

    Raises:
        UserError: No folder, metadata without file names or labels, or what ``folder`` refuses.
    """
    if not args.root or not Path(args.root).is_dir():
        raise UserError(f"data.root={args.root}: data.name=imagefolder needs a folder of images, with metadata or not")
    root = Path(args.root)
    tables = sorted(path for name in METADATA for path in root.rglob(name))
    if not tables:
        return part_rows(*list_rows(root), args, cache, parts)
    rows = [row for table in tables for row in _rows(root, table, args.label_column)]
    if not rows:
        raise UserError(f"{tables[0]}: lists no images")
    listed = {row.path for row in rows}
    images = (p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    unlisted = [path for path in images if path not in listed]
    if unlisted:
        log.warning("data: %d images are in no metadata file and left out, such as %s", len(unlisted), unlisted[0])
    dataset = part_rows(root, rows, args, cache, parts)
    dataset.skipped["unlisted"] = len(unlisted)
    return dataset
