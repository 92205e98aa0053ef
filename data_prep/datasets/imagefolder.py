"""Reader of Hugging Face's ``imagefolder``: images with ``metadata.csv`` or ``.jsonl``; without, a folder per class."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

from data_prep.core.errors import UserError
from data_prep.datasets.folder import layout_parts, list_labelled
from data_prep.reading.dataset import Dataset
from data_prep.reading.finding import find_files, find_images, report_skipped
from data_prep.reading.rows import Row, part_rows
from data_prep.reading.splits import UNCLEAR, split_by_name
from data_prep.reading.tables import is_empty, label_text, path_text, read_records
from data_prep.settings import DataArgs

log = logging.getLogger(__name__)

METADATA = ("metadata.csv", "metadata.jsonl")


def _find_split(folders: tuple[str, ...], where: str) -> str:
    """Returns the split that one of a file's parent folders is named after; empty if there is none."""
    for folder in folders:
        if kind := split_by_name(folder):
            if kind == UNCLEAR:
                raise UserError(f"{where}: which split is the folder {folder}? Rename it to train, val or test")
            return kind
    return ""


def _rows(root: Path, table: Path, label_column: str) -> list[Row]:
    """Reads the rows of a metadata file; a file in a folder named like a split lists that split."""
    split = _find_split(table.relative_to(root).parts[:-1], str(table))
    rows = []
    for number, record in read_records(table):
        where = f"{table}, line {number}"
        for column in ("file_name", label_column):
            if not isinstance(record, dict) or is_empty(record.get(column)):
                known = ", ".join(record) if isinstance(record, dict) else "none"
                raise UserError(
                    f"{where}: no {column} (columns: {known}); data.label_column says which column names the class"
                )
        name = PurePosixPath(path_text(record["file_name"], table.parent, where))
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{where}: {name} is outside the metadata's folder")
        path = (table.parent / name).relative_to(root)
        row_split = _find_split(path.parts[:-1], where) or split
        rows.append(Row(path.as_posix(), label_text(record[label_column], where), row_split))
    return rows


def read_imagefolder(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads a folder of images with metadata files, at its top or in folders named like splits.

    Raises:
        UserError: There is no folder, metadata lacks file names or labels, or an error of ``read_folder``.
    """
    if not args.root or not Path(args.root).is_dir():
        raise UserError(
            f"data.root={args.root}: data.name=imagefolder needs a folder of images, with or without metadata"
        )
    root = Path(args.root)
    tables = sorted(p for suffix in (".csv", ".jsonl") for p in find_files(root, suffix).files if p.name in METADATA)
    if not tables:
        return layout_parts(list_labelled(root, args), args, cache, parts)
    rows = [row for table in tables for row in _rows(root, table, args.label_column)]
    if not rows:
        raise UserError(f"{tables[0]}: lists no images")
    listed = {row.path for row in rows}
    findings = find_images(root)
    unlisted = [path for path in findings.files if path.relative_to(root).as_posix() not in listed]
    if unlisted:
        log.warning(
            "data: %d images are in no metadata file and left out, such as %s",
            len(unlisted), unlisted[0].relative_to(root).as_posix(),
        )  # fmt: skip
    passed = report_skipped([(path, reason) for path, reason in findings.passed if path not in tables], cache)
    dataset = part_rows(root, rows, args, cache, parts)
    dataset.skipped["unlisted"] = len(unlisted)
    dataset.skipped["passed over"] = passed
    return dataset
