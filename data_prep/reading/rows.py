"""Divides rows of path, label and split into the parts of a data set; shared by the readers of your own images."""

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
from data_prep.reading.dataset import Dataset, hash_images, sample_key
from data_prep.settings import DataArgs

log = logging.getLogger(__name__)

_CLASSES_SHOWN = 10  # in a log line


@dataclass(frozen=True)
class Row:
    """One listed image.

    Attributes:
        path: Relative to the data set's folder.
        label: The class name.
        split: ``train``, ``val`` or ``test``; empty where the layout names none.
        twin: Index among the classes that share the name; they remain distinct.
    """

    path: str
    label: str
    split: str
    twin: int = 0


def _cut(samples: list[Sample], shares: list[float], rng: random.Random) -> list[list[Sample]]:
    """Shuffles a class and splits it by shares: at least two images in the first part, and one in each other."""
    shuffled = rng.sample(samples, len(samples))
    counts = [max(1, round(share * len(samples))) for share in shares[1:]]
    while len(samples) - sum(counts) < 2:
        counts[counts.index(max(counts))] -= 1
    edges = [len(samples) - sum(counts)]
    for count in counts:
        edges.append(edges[-1] + count)
    return [shuffled[a:b] for a, b in zip([0, *edges], edges, strict=False)]


def _find_small(counts: list[int], minimum: int, args: DataArgs, names: tuple[str, ...], kind: str) -> set[int]:
    """Returns the labels of the classes to skip since they have fewer images than needed, or raises an error.

    Args:
        counts: Number of images by label.
        minimum: Number of images that a class needs.
        args: ``on_small_class``.
        names: Class names by label.
        kind: What is counted, for the messages: ``images`` or ``training images``.
    """
    small = [label for label, count in enumerate(counts) if count < minimum]
    shown = ", ".join(f"{names[label]} ({counts[label]})" for label in small[:5])
    if small and args.on_small_class == "error":
        raise UserError(
            f"{len(small)} of {len(names)} classes have fewer than {minimum} {kind}: {shown}; "
            "add images, or set data.on_small_class=skip"
        )
    if len(small) == len(names):
        raise UserError(
            f"data.on_small_class=skip: leaves no class, since each has fewer than {minimum} {kind}; add images"
        )
    if small:
        log.warning("data: skipped %d classes with fewer than %d %s: %s", len(small), minimum, kind, shown)
    return set(small)


def _log_classes(names: tuple[str, ...], counts: Counter) -> None:
    shown = ", ".join(f"{name} ({counts[label]})" for label, name in enumerate(names[:_CLASSES_SHOWN]))
    ellipsis = ", …" * (len(names) > _CLASSES_SHOWN)
    log.info("data: %d images of %d classes: %s%s", counts.total(), len(names), shown, ellipsis)


def _warn_of_empty_classes(by_class: dict, names: tuple[str, ...], small: set[int], splits: set[str]) -> None:
    for split in sorted(splits):
        empty = [name for label, name in enumerate(names) if label not in small and not by_class[label, split]]
        if empty:
            log.warning("data: %d classes have no %s images: %s", len(empty), split, ", ".join(empty[:5]))


def data_set_name(args: DataArgs) -> str:
    """Returns the data set's name: that of its folder (also if given as ``.``) or of its table."""
    root = Path(os.path.normpath(Path(args.root).absolute()))
    return (root.stem if root.is_file() else root.name) or args.name


def _warn_of_spellings(labels: Sequence[str], root: str) -> None:
    """Warns of names that look the same and are read as one class; raises an error for an empty name."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        spellings[tidy(label)].add(label)
    if "" in spellings:
        raise UserError(f"data.root={root}: a class has an empty name")
    variants = [spelled for spelled in spellings.values() if len(spelled) > 1]
    if variants:
        shown = ", ".join(map(ascii, sorted(variants[0])))
        log.warning(
            "data: %d class names are spelled in several ways that look the same, such as %s; each is one class",
            len(variants), shown,
        )  # fmt: skip


def part_rows(
    base: Path, rows: list[Row], args: DataArgs, cache: Path, parts: tuple[str, ...], classes: Sequence[str] = ()
) -> Dataset:
    """Opens the listed images and divides them into parts, as described in ``read_folder``.

    Args:
        base: The folder that paths are relative to.
        rows: The images.
        args: Split ratios, seed and policies.
        cache: Folder of caches.
        parts: The parts that are needed.
        classes: Names of classes that may have no images.

    Raises:
        UserError: Images are missing or unreadable, or a class has too few.
    """
    repeated = [path for path, count in Counter(row.path for row in rows).items() if count > 1]
    if repeated:
        raise UserError(f"data.root={args.root}: {repeated[0]} is listed twice ({len(repeated)} such paths)")
    _warn_of_spellings([*classes, *{row.label for row in rows}], args.root)
    hashes = hash_images([base / row.path for row in rows], cache, args.on_error)
    skipped = Counter({"unreadable": sum(digest is None for digest in hashes)})
    keys = sorted({(tidy(row.label), row.twin) for row in rows} | {(tidy(name), 0) for name in classes})
    label_of = {key: label for label, key in enumerate(keys)}
    by_class: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    for row, digest in zip(rows, hashes, strict=True):
        if digest is not None:
            label = label_of[tidy(row.label), row.twin]
            by_class[label, row.split].append(Sample(sample_key(row.path), str(base / row.path), label, digest))
    names = tuple(name for name, _ in keys)
    _log_classes(names, Counter(sample.label for samples in by_class.values() for sample in samples))

    splits = {row.split for row in rows}
    # Two in train, so that leave-one-out search finds another one, and one each in val and test.
    if splits == {""}:
        small = _find_small([len(by_class[label, ""]) for label in range(len(names))], 4, args, names, "images")
    else:
        if not {"train", "test"} <= splits or "" in splits:
            present = sorted(split or "none" for split in splits)
            raise UserError(f"data.root={args.root}: the splits are {present}; train and test are needed")
        counts = [len(by_class[label, "train"]) for label in range(len(names))]
        small = _find_small(counts, 2 if "val" in splits else 3, args, names, "training images")
        _warn_of_empty_classes(by_class, names, small, splits - {"train"})
    skipped["small class"] = sum(len(v) for (label, _), v in by_class.items() if label in small)

    rng = random.Random(args.seed)
    train, val, test = [], [], []
    for label in range(len(names)):
        if label in small:
            continue
        if splits == {""}:
            class_train, class_val, class_test = _cut(by_class[label, ""], args.split_ratios, rng)
        elif "val" in splits:
            class_train, class_val, class_test = (by_class[label, split] for split in ("train", "val", "test"))
        else:
            train_share = args.split_ratios[0] / (args.split_ratios[0] + args.split_ratios[1])
            class_train, class_val = _cut(by_class[label, "train"], [train_share, 1 - train_share], rng)
            class_test = by_class[label, "test"]
        train, val, test = train + class_train, val + class_val, test + class_test
    all_parts = {
        "train": train,
        "val_memory": train,
        "val": val,
        "test_memory": train,
        "test": test,
    }
    return Dataset(data_set_name(args), names, {part: all_parts[part] for part in parts}, skipped)
