"""Reader of your own images: a folder per class, or a table of path, label and split.

All parts have the same classes: ``train`` is mined and serves as memory, ``val`` is for model selection and ``test``
for the final metrics.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.reading.dataset import Dataset
from data_prep.reading.finding import Findings, class_folders, file_mode, find_images, report_skipped
from data_prep.reading.rows import Row, part_rows
from data_prep.reading.splits import SPLIT_WORDS, may_hold_split, split_by_name, split_folders
from data_prep.reading.synonyms import FILE as SYNONYMS
from data_prep.reading.tables import is_empty, label_text, path_text, read_records
from data_prep.settings import DataArgs

TABLES = ("samples.csv", "samples.jsonl")


@dataclass
class Layout:
    """The content of a folder of your own images.

    Attributes:
        base: The folder that paths are relative to.
        rows: The images.
        classes: Names of class folders, including those without images.
        passed: Entries that were passed over, with reasons.
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
    """Adds the images of class folders."""
    for folder in folders:
        label = label_text(folder.name, str(folder))
        findings = find_images(folder)
        layout.classes.append(label)
        layout.rows += [Row(p.relative_to(layout.base).as_posix(), label, split) for p in findings.files]
        layout.passed += findings.passed


def find_splits(root: Path, folders: list[Path]) -> tuple[dict[Path, str], dict[Path, Findings]]:
    """Finds the split and the class folders of each folder at the top of a data set; both empty if they are classes.

    Raises:
        UserError: It is unclear which folders are splits.
    """
    if not any(split_by_name(folder.name) or may_hold_split(folder.name) for folder in folders):
        return {}, {}
    inner = {folder: class_folders(folder) for folder in folders}
    inside = {folder: {path.name for path in findings.files} for folder, findings in inner.items()}
    return split_folders(root, folders, inside), inner


def list_rows(root: Path, label_column: str) -> Layout:
    """Lists the images of a layout.

    Args:
        root: A folder, or a table.
        label_column: The column of a table that names the class.

    Raises:
        UserError: The folder is missing, empty, or its table is malformed; or it is unclear which folders are splits.
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
    top = class_folders(root)
    layout = Layout(root, passed=[(path, reason) for path, reason in top.passed if path.name != SYNONYMS])
    splits, inner = find_splits(root, top.files)
    for folder, split in splits.items():
        if len(inner[folder].files) == 1 and split_by_name(inner[folder].files[0].name):
            raise UserError(
                f"{inner[folder].files[0]}: a split's folder alone in a split's folder; move its content up, so that "
                f"{folder} holds a folder per class"
            )
        layout.passed += inner[folder].passed
        _add_classes(layout, inner[folder].files, split)
    if not splits:
        _add_classes(layout, top.files, "")
    if not layout.rows:
        raise UserError(f"data.root={root}: no images; it needs a folder per class, or {' or '.join(TABLES)}")
    return layout


def read_folder(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads a labelled folder or table.

    Without named splits, each class is shuffled with ``data.seed`` and divided by ``data.split_ratios``.
    With named splits but no ``val``, a share of ``train`` serves as ``val``.

    Raises:
        UserError: Images are missing or unreadable, a class has too few, or a table is malformed.
    """
    if not args.root:
        raise UserError("data.name=folder needs data.root=PATH: a folder per class, or a CSV or JSON-lines table")
    return layout_parts(list_rows(Path(args.root), args.label_column), args, cache, parts)


def layout_parts(layout: Layout, args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Builds a data set from a layout by ``part_rows``, and counts the entries passed over."""
    passed = report_skipped(layout.passed, cache)
    dataset = part_rows(layout.base, layout.rows, args, cache, parts, layout.classes)
    dataset.skipped["passed over"] = passed
    return dataset
