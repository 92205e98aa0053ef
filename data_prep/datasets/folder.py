"""Your own images: a folder per class, or a table of path, label and split.

The classes of all parts are the same: ``train`` is mined and serves as memory, ``val`` is for
choices and ``test`` for the figures.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.reading.dataset import Dataset
from data_prep.reading.finding import Findings, class_folders, file_mode, find_pictures, report_passed
from data_prep.reading.rows import Row, part_rows
from data_prep.reading.splits import SPLIT_WORDS, may_hold_split, split_by_name, split_folders
from data_prep.reading.synonyms import FILE as SYNONYMS
from data_prep.reading.tables import is_empty, label_text, path_text, read_records
from data_prep.settings import DataArgs

TABLES = ("samples.csv", "samples.jsonl")


@dataclass
class Layout:
    """What a folder of one's own lists.

    Attributes:
        base: The folder that paths are relative to.
        rows: The images.
        classes: Names of class folders, also of those without images.
        passed: What was passed over, with reasons.
    """

    base: Path
    rows: list[Row] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    passed: list[tuple[Path, str]] = field(default_factory=list)


def _table_rows(table: Path, label_column: str) -> list[Row]:
    """Reads path, label and optional split from a CSV or JSON-lines file."""
    rows = []
    for number, record in read_records(table):
        where = f"{table}, line {number}"
        for column in ("path", label_column):
            if not isinstance(record, dict) or is_empty(record.get(column)):
                known = ", ".join(record) if isinstance(record, dict) else "none"
                raise UserError(
                    f"{where}: no {column}; columns are path, label and optionally split (here: {known}); "
                    "data.label_column says which column names the class"
                )
        split = str(record.get("split") or "").strip()
        if split and split.casefold() not in SPLIT_WORDS:
            raise UserError(f"{where}: split {split!r}; use train, val or test")
        path = path_text(record["path"], table.parent, where)
        rows.append(Row(path, label_text(record[label_column], where), SPLIT_WORDS.get(split.casefold(), "")))
    if not rows:
        raise UserError(f"{table}: lists no images; it needs lines of path, label and optionally split")
    if {row.split for row in rows} > {""} and any(not row.split for row in rows):
        raise UserError(f"{table}: some lines have a split and some have none; give all or none")
    return rows


def _add_classes(layout: Layout, folders: list[Path], split: str) -> None:
    """Adds the pictures of class folders."""
    for folder in folders:
        label = label_text(folder.name, str(folder))
        found = find_pictures(folder)
        layout.classes.append(label)
        layout.rows += [Row(p.relative_to(layout.base).as_posix(), label, split) for p in found.files]
        layout.passed += found.passed


def find_splits(root: Path, folders: list[Path]) -> tuple[dict[Path, str], dict[Path, Findings]]:
    """The split of each folder at the top of a data set, and what lies in it; both empty where they are classes.

    Raises:
        UserError: It is not clear which folders are splits.
    """
    if not any(split_by_name(folder.name) or may_hold_split(folder.name) for folder in folders):
        return {}, {}
    inner = {folder: class_folders(folder) for folder in folders}
    inside = {folder: {path.name for path in own.files} for folder, own in inner.items()}
    return split_folders(root, folders, inside), inner


def list_rows(root: Path, label_column: str) -> Layout:
    """Lists the images of a layout.

    Args:
        root: A folder, or a table.
        label_column: The column of a table that names the class.

    Raises:
        UserError: The folder is missing, empty, or its table is malformed; or it is not clear which folders are splits.
    """
    mode = file_mode(root)
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise UserError(f"data.root={root}: {'neither a folder nor a file' if mode else 'no such folder or file'}")
    if stat.S_ISREG(mode):
        if root.suffix not in (".csv", ".jsonl"):
            raise UserError(f"data.root={root}: a file must be .csv or .jsonl")
        return Layout(root.parent, _table_rows(root, label_column))
    for name in TABLES:
        if (root / name).is_file():
            return Layout(root, _table_rows(root / name, label_column))
    found = class_folders(root)
    layout = Layout(root, passed=[(path, reason) for path, reason in found.passed if path.name != SYNONYMS])
    splits, inner = find_splits(root, found.files)
    for folder, split in splits.items():
        if len(inner[folder].files) == 1 and split_by_name(inner[folder].files[0].name):
            raise UserError(
                f"{inner[folder].files[0]}: a split's folder alone in a split's folder; move what it holds up, so that "
                f"{folder} holds a folder per class"
            )
        layout.passed += inner[folder].passed
        _add_classes(layout, inner[folder].files, split)
    if not splits:
        _add_classes(layout, found.files, "")
    if not layout.rows:
        raise UserError(f"data.root={root}: no images; it needs a folder per class, or {' or '.join(TABLES)}")
    return layout


def read_folder(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads a labelled folder or table.

    Where no splits are named, each class is shuffled by ``data.seed`` and cut by ``data.split_ratios``.
    Where splits are named without ``val``, a share of ``train`` serves as ``val``.

    Raises:
        UserError: Missing or unreadable images, a class with too few, a malformed table.
    """
    if not args.root:
        raise UserError("data.name=folder needs data.root=PATH: a folder per class, or a CSV or JSON-lines table")
    return layout_parts(list_rows(Path(args.root), args.label_column), args, cache, parts)


def layout_parts(layout: Layout, args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Opens what a layout lists, as ``part_rows``, and counts what it passed over."""
    passed = report_passed(layout.passed, cache)
    dataset = part_rows(layout.base, layout.rows, args, cache, parts, layout.classes)
    dataset.skipped["passed over"] = passed
    return dataset
