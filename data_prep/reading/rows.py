"""From rows of path, label and split to the parts of a data set: what the readers of one's own images share."""

from __future__ import annotations

import logging
import os
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.names import tidy
from data_prep.core.records import Sample
from data_prep.reading.dataset import Dataset, digests, sample_key
from data_prep.settings import DataArgs

log = logging.getLogger(__name__)

_SHOWN = 10  # classes in a log line


@dataclass(frozen=True)
class Row:
    """One listed image.

    Attributes:
        path: Relative to the data set's folder.
        label: The class name.
        split: ``train``, ``val`` or ``test``; empty where the layout names none.
        twin: Which of several classes of that name; they stay distinct.
    """

    path: str
    label: str
    split: str
    twin: int = 0


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


def _too_small(counts: list[int], least: int, args: DataArgs, names: tuple[str, ...], what: str) -> set[int]:
    """The labels of classes with fewer images than a part needs."""
    small = [label for label, count in enumerate(counts) if count < least]
    shown = ", ".join(f"{names[label]} ({counts[label]})" for label in small[:5])
    if small and args.on_small_class == "error":
        raise UserError(
            f"{len(small)} of {len(names)} classes have fewer than {least} {what}: {shown}; "
            "add images, or set data.on_small_class=skip"
        )
    if len(small) == len(names):
        raise UserError(
            f"data.on_small_class=skip: leaves no class, since each has fewer than {least} {what}; add images"
        )
    if small:
        log.warning("data: skipped %d classes with fewer than %d %s: %s", len(small), least, what, shown)
    return set(small)


def _log_classes(names: tuple[str, ...], counts: Counter) -> None:
    shown = ", ".join(f"{name} ({counts[label]})" for label, name in enumerate(names[:_SHOWN]))
    log.info(
        "data: %d images of %d classes: %s%s", counts.total(), len(names), shown, ", …" * (len(names) > _SHOWN)
    )  # fmt: skip


def _warn_of_untested(by_class: dict, names: tuple[str, ...], small: set[int], splits: set[str]) -> None:
    for split in sorted(splits):
        empty = [name for label, name in enumerate(names) if label not in small and not by_class[label, split]]
        if empty:
            log.warning("data: %d classes have no %s images: %s", len(empty), split, ", ".join(empty[:5]))


def name_of_root(args: DataArgs) -> str:
    """The data set's name: its folder's, also where that is given as ``.``, or its table's."""
    root = Path(os.path.normpath(Path(args.root).absolute()))
    return (root.stem if root.is_file() else root.name) or args.name


def _one_spelling(labels: Sequence[str], root: str) -> None:
    """Says which names look the same and are read as one class."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        spellings[tidy(label)].add(label)
    if "" in spellings:
        raise UserError(f"data.root={root}: a class has an empty name")
    several = [spelled for spelled in spellings.values() if len(spelled) > 1]
    if several:
        shown = ", ".join(map(ascii, sorted(several[0])))
        log.warning(
            "data: %d class names are spelled in several ways that look the same, such as %s; each is one class",
            len(several), shown,
        )  # fmt: skip


def part_rows(
    base: Path, rows: list[Row], args: DataArgs, cache: Path, parts: tuple[str, ...], classes: Sequence[str] = ()
) -> Dataset:
    """Opens the listed images and divides them into parts, as ``read_folder`` says.

    Args:
        base: The folder that paths are relative to.
        rows: The images.
        args: Shares, seed and policies.
        cache: Folder of caches.
        parts: The parts that are needed.
        classes: Names of classes that may have no images.

    Raises:
        UserError: Missing or unreadable images, a class with too few.
    """
    repeated = [path for path, count in Counter(row.path for row in rows).items() if count > 1]
    if repeated:
        raise UserError(f"data.root={args.root}: {repeated[0]} is listed twice ({len(repeated)} such paths)")
    _one_spelling([*classes, *{row.label for row in rows}], args.root)
    found = digests([base / row.path for row in rows], cache, args.on_error)
    skipped = Counter({"unreadable": sum(digest is None for digest in found)})
    keys = sorted({(tidy(row.label), row.twin) for row in rows} | {(tidy(name), 0) for name in classes})
    label_of = {key: label for label, key in enumerate(keys)}
    by_class: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    for row, digest in zip(rows, found, strict=True):
        if digest is not None:
            label = label_of[tidy(row.label), row.twin]
            by_class[label, row.split].append(Sample(sample_key(row.path), str(base / row.path), label, digest))
    names = tuple(name for name, _ in keys)
    _log_classes(names, Counter(sample.label for samples in by_class.values() for sample in samples))

    splits = {row.split for row in rows}
    # Two in train so that one can be left out, and one each to choose and to measure on.
    if splits == {""}:
        small = _too_small([len(by_class[label, ""]) for label in range(len(names))], 4, args, names, "images")
    else:
        if not {"train", "test"} <= splits or "" in splits:
            there = sorted(split or "none" for split in splits)
            raise UserError(f"data.root={args.root}: the splits are {there}; train and test are needed")
        counts = [len(by_class[label, "train"]) for label in range(len(names))]
        small = _too_small(counts, 2 if "val" in splits else 3, args, names, "training images")
        _warn_of_untested(by_class, names, small, splits - {"train"})
    skipped["small class"] = sum(len(v) for (label, _), v in by_class.items() if label in small)

    rng = random.Random(args.seed)
    train, val, test = [], [], []
    for label in range(len(names)):
        if label in small:
            continue
        if splits == {""}:
            first, second, third = _cut(by_class[label, ""], args.split_ratios, rng)
        elif "val" in splits:
            first, second, third = (by_class[label, split] for split in ("train", "val", "test"))
        else:
            kept = args.split_ratios[0] / (args.split_ratios[0] + args.split_ratios[1])
            first, second = _cut(by_class[label, "train"], [kept, 1 - kept], rng)
            third = by_class[label, "test"]
        train, val, test = train + first, val + second, test + third
    all_parts = {
        "train": train,
        "val_memory": train,
        "val": val,
        "test_memory": train,
        "test": test,
    }
    return Dataset(name_of_root(args), names, {part: all_parts[part] for part in parts}, skipped)
