"""Reader of your own images: a folder per class, or a table of path, label and split.

All parts have the same classes: ``train`` is mined and serves as memory, ``val`` is for model selection and ``test``
for the final metrics.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.reading.dataset import Dataset, log_once
from data_prep.reading.descriptions import FILE as DESCRIPTIONS
from data_prep.reading.finding import Findings, class_folders, find_images, report_skipped
from data_prep.reading.nesting import decide_nesting
from data_prep.reading.rows import Row, part_rows
from data_prep.reading.sources import TABLES, SourceKind, find_source
from data_prep.reading.splits import SPLIT_WORDS, may_hold_split, split_by_name, split_folders
from data_prep.reading.synonyms import FILE as SYNONYMS
from data_prep.reading.tables import is_empty, label_text, path_text, read_records
from data_prep.settings import DataArgs

log = logging.getLogger(__name__)


@dataclass
class Layout:
    """The content of a folder of your own images.

    Attributes:
        base: The folder that paths are relative to.
        rows: The images.
        classes: Names of class folders without images.
        passed: Entries that were passed over, with reasons.
        rule: A sentence that says which folders are classes, where class folders have sub-folders; else empty.
    """

    base: Path
    rows: list[Row] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    passed: list[tuple[Path, str]] = field(default_factory=list)
    rule: str = ""


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


def _add_classes(layout: Layout, folders: list[tuple[Path, str]], setting: str) -> None:
    """Adds the images below class folders, each with its split; see ``decide_nesting``."""
    images: list[tuple[Path, str, tuple[str, ...]]] = []
    for top, split in folders:
        findings = find_images(top)
        images += [(path, split, path.parent.relative_to(top.parent).parts) for path in findings.files]
        layout.passed += findings.passed
    with_images = {folder for _, _, folder in images}
    nesting = decide_nesting(with_images, setting)
    layout.rule = nesting.rule
    tops = {folder[0] for folder in with_images}
    layout.classes += [label_text(top.name, str(top)) for top, _ in folders if top.name not in tops]
    for path, split, folder in images:
        label = label_text(nesting.label(folder), str(path.parent))
        layout.rows.append(Row(path.relative_to(layout.base).as_posix(), label, split))


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


def list_rows(root: Path, args: DataArgs, shown: str) -> Layout:
    """Lists the images of a layout.

    Args:
        root: A folder, or a table.
        args: ``label_column`` and ``class_folders``.
        shown: The root as the user gave it, with its key or option, for errors.

    Raises:
        UserError: The folder is missing, empty, or its table is malformed; it has no images; or it is unclear which
            folders are splits.
    """
    source = find_source(root, shown)
    if source.kind is SourceKind.MEMORY:
        raise UserError(
            f"{shown}: a kept memory, which has vectors and no images; give the folder or table that it was made from "
            "(a memory is for --classes and for Recognizer)"
        )
    if source.kind is SourceKind.NAMES:
        raise UserError(
            f"{shown}: a list of names without images; give a table with the columns path and label, or a folder per "
            "class (a list of names is for --classes and for Recognizer)"
        )
    if source.kind is SourceKind.TABLE:
        return Layout(source.path.parent, _table_rows(source.path, args.label_column))
    top = class_folders(root)
    layout = Layout(root, passed=[entry for entry in top.passed if entry[0].name not in (SYNONYMS, DESCRIPTIONS)])
    splits, inner = find_splits(root, top.files)
    for folder in splits:
        if len(inner[folder].files) == 1 and split_by_name(inner[folder].files[0].name):
            raise UserError(
                f"{inner[folder].files[0]}: a split's folder alone in a split's folder; move its content up, so that "
                f"{folder} holds a folder per class"
            )
        layout.passed += inner[folder].passed
    in_splits = [(path, split) for folder, split in splits.items() for path in inner[folder].files]
    _add_classes(layout, in_splits if splits else [(path, "") for path in top.files], args.class_folders)
    return layout


def list_labelled(root: Path, args: DataArgs) -> Layout:
    """Lists the images of ``data.root``; see ``list_rows``.

    Raises:
        UserError: As ``list_rows``, or there are no images.
    """
    shown = f"data.root={root}"
    if not root.exists():
        where = "" if root.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"{shown}: no such folder or file{where}; give data.root=PATH, where the images are now")
    layout = list_rows(root, args, shown)
    if not layout.rows:
        raise UserError(f"{shown}: no images; it needs a folder per class, or {' or '.join(TABLES)}")
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
    return layout_parts(list_labelled(Path(args.root), args), args, cache, parts)


def layout_parts(layout: Layout, args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Builds a data set from a layout by ``part_rows``, and counts the entries passed over."""
    if layout.rule:
        log_once(log, logging.INFO, f"data: {layout.base}: {layout.rule}")
    passed = report_skipped(layout.passed, cache)
    dataset = part_rows(layout.base, layout.rows, args, cache, parts, layout.classes)
    dataset.skipped["passed over"] = passed
    return dataset
