"""Your own images: a folder per class, or a table of path, label and split.

The classes of all parts are the same: ``train`` is mined and serves as memory, ``val`` is for
choices and ``test`` for the figures.
"""

from __future__ import annotations

import csv
import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.datasets.dataset import Dataset, digests, key_of
from data_prep.errors import UserError
from data_prep.records import Sample
from data_prep.settings import DataArgs

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
TABLES = ("samples.csv", "samples.jsonl")


@dataclass(frozen=True)
class Row:
    """One listed image; ``split`` is empty where the layout names none."""

    path: str
    label: str
    split: str


def _parsed(table: Path) -> Iterator[tuple[int, object]]:
    with open(table, newline="", encoding="utf-8-sig") as file:
        if table.suffix == ".csv":
            reader = csv.DictReader(file)
            for record in reader:
                yield reader.line_num, record
            return
        for number, line in enumerate(file, 1):
            try:
                if line.strip():
                    yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{table}, line {number}: not readable as JSON ({error.msg})") from None


def records_of(table: Path) -> list[tuple[int, object]]:
    """Reads a CSV or JSON-lines table's records, each with the number of its line.

    Raises:
        UserError: The table is not readable as what its suffix says.
    """
    try:
        return list(_parsed(table))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{table}: not readable ({error})") from None


def _table_rows(table: Path) -> list[Row]:
    """Reads path, label and optional split from a CSV or JSON-lines file."""
    rows = []
    for number, record in records_of(table):
        for column in ("path", "label"):
            if not isinstance(record, dict) or record.get(column) in (None, ""):
                raise UserError(f"{table}, line {number}: no {column}; columns are path, label and optionally split")
        split = str(record.get("split") or "")
        if split and split.casefold() not in SPLIT_WORDS:
            raise UserError(f"{table}, line {number}: split {split!r}; use train, val or test")
        rows.append(Row(str(record["path"]), str(record["label"]), SPLIT_WORDS.get(split.casefold(), "")))
    if not rows:
        raise UserError(f"{table}: lists no images; it needs lines of path, label and optionally split")
    if {row.split for row in rows} > {""} and any(not row.split for row in rows):
        raise UserError(f"{table}: some lines have a split and some have none; give all or none")
    return rows


def _class_folders(root: Path, prefix: str, split: str) -> list[Row]:
    return [
        Row(f"{prefix}{folder.name}/{path.relative_to(folder).as_posix()}", folder.name, split)
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]


def list_rows(root: Path) -> tuple[Path, list[Row]]:
    """Lists the images of a layout.

    Returns:
        tuple[Path, list[Row]]: The folder that paths are relative to, and the rows.

    Raises:
        UserError: The folder is missing, empty, or its table is malformed.
    """
    if not root.exists():
        raise UserError(f"data.root={root}: no such folder or file")
    if root.is_file():
        if root.suffix not in (".csv", ".jsonl"):
            raise UserError(f"data.root={root}: a file must be .csv or .jsonl")
        return root.parent, _table_rows(root)
    for name in TABLES:
        if (root / name).is_file():
            return root, _table_rows(root / name)
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    splits = [folder for folder in folders if folder.name.casefold() in SPLIT_WORDS]
    if len(splits) > 1 and len(splits) < len(folders):
        other = next(folder.name for folder in folders if folder not in splits)
        raise UserError(
            f"data.root={root}: holds {splits[0].name} and {splits[1].name}, which name splits, beside {other}; "
            "move what is no split elsewhere, or list the images in samples.csv"
        )
    if folders and len(splits) == len(folders):
        rows = [row for f in folders for row in _class_folders(f, f"{f.name}/", SPLIT_WORDS[f.name.casefold()])]
    else:
        rows = _class_folders(root, "", "")
    if not rows:
        raise UserError(f"data.root={root}: no images; it needs a folder per class, or {' or '.join(TABLES)}")
    return root, rows


def _cut(samples: list[Sample], shares: list[float], rng: random.Random) -> list[list[Sample]]:
    """Shuffles a class and cuts it by shares: at least two to the first part, and one to each other."""
    shuffled = rng.sample(samples, len(samples))
    counts = [max(1, round(share * len(samples))) for share in shares[1:]]
    while len(samples) - sum(counts) < 2:
        counts[counts.index(max(counts))] -= 1
    edges = [len(samples) - sum(counts)]
    for count in counts:
        edges.append(edges[-1] + count)
    return [shuffled[a:b] for a, b in zip([0, *edges], edges, strict=False)]


def _too_small(by_class: dict[str, int], least: int, policy: str, names: tuple[str, ...], what: str) -> set[str]:
    small = sorted(name for name in names if by_class.get(name, 0) < least)
    if small and policy == "error":
        shown = ", ".join(f"{name} ({by_class.get(name, 0)})" for name in small[:5])
        raise UserError(
            f"{len(small)} of {len(names)} classes have fewer than {least} {what}: {shown}; "
            "add images, or set data.small_classes=skip"
        )
    if len(small) == len(names):
        raise UserError(
            f"data.small_classes=skip: leaves no class, since each has fewer than {least} {what}; add images"
        )
    if small:
        log.warning("data: skipped %d classes with fewer than %d %s: %s", len(small), least, what, ", ".join(small[:5]))
    return set(small)


def read_folder(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads a labelled folder or table.

    Where no splits are named, each class is shuffled by ``data.seed`` and cut by ``data.shares``.
    Where splits are named without ``val``, a share of ``train`` serves as ``val``.

    Raises:
        UserError: Missing or unreadable images, a class with too few, a malformed table.
    """
    if not args.root:
        raise UserError("data.name=folder needs data.root=PATH: a folder per class, or a CSV or JSON-lines table")
    return part_rows(*list_rows(Path(args.root)), args, cache, parts)


def part_rows(base: Path, rows: list[Row], args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Opens the listed images and divides them into parts, as ``read_folder`` says.

    Args:
        base: The folder that paths are relative to.
        rows: The images.
        args: Shares, seed and policies.
        cache: Folder of caches.
        parts: The parts that are needed.

    Raises:
        UserError: Missing or unreadable images, a class with too few.
    """
    repeated = [path for path, count in Counter(row.path for row in rows).items() if count > 1]
    if repeated:
        raise UserError(f"data.root={args.root}: {repeated[0]} is listed twice ({len(repeated)} such paths)")
    found = digests([base / row.path for row in rows], cache, args.on_error)
    skipped = Counter({"unreadable": sum(digest is None for digest in found)})
    names = tuple(sorted({row.label for row in rows}))
    label_of = {name: label for label, name in enumerate(names)}
    by_class: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for row, digest in zip(rows, found, strict=True):
        if digest is not None:
            sample = Sample(key_of(row.path), str(base / row.path), label_of[row.label], digest)
            by_class[row.label, row.split].append(sample)

    splits = {row.split for row in rows}
    # Two in train so that one can be left out, and one each to choose and to measure on.
    if splits == {""}:
        counts = {name: len(by_class[name, ""]) for name in names}
        small = _too_small(counts, 4, args.small_classes, names, "images")
    else:
        if not {"train", "test"} <= splits:
            raise UserError(f"data.root={args.root}: the splits are {sorted(splits)}; train and test are needed")
        counts = {name: len(by_class[name, "train"]) for name in names}
        least = 2 if "val" in splits else 3
        small = _too_small(counts, least, args.small_classes, names, "training images")
    skipped["small class"] = sum(len(v) for (name, _), v in by_class.items() if name in small)

    rng = random.Random(args.seed)
    train, val, test = [], [], []
    for name in names:
        if name in small:
            continue
        if splits == {""}:
            first, second, third = _cut(by_class[name, ""], args.shares, rng)
        elif "val" in splits:
            first, second, third = (by_class[name, split] for split in ("train", "val", "test"))
        else:
            kept = args.shares[0] / (args.shares[0] + args.shares[1])
            first, second = _cut(by_class[name, "train"], [kept, 1 - kept], rng)
            third = by_class[name, "test"]
        train, val, test = train + first, val + second, test + third
    all_parts = {
        "tuning": train,
        "development_memory": train,
        "development": val,
        "test_memory": train,
        "test": test,
    }
    return Dataset(Path(args.root).stem, names, {part: all_parts[part] for part in parts}, skipped)
