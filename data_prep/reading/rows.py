"""Divides rows of path, label and split into the parts of a data set; shared by the readers of your own images."""

from __future__ import annotations

import logging
import os
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.names import tidy
from data_prep.core.records import Sample
from data_prep.reading.cutting import cut
from data_prep.reading.dataset import Dataset, count_suffixes, hash_images, log_once, sample_key
from data_prep.reading.duplicates import count_distinct, drop_contradictory, find_copies
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


def _log_classes(names: tuple[str, ...], samples: list[Sample], base: Path) -> None:
    counts = Counter(sample.label for sample in samples)
    shown = ", ".join(f"{name} ({counts[label]})" for label, name in enumerate(names[:_CLASSES_SHOWN]))
    ellipsis = ", …" * (len(names) > _CLASSES_SHOWN)
    suffixes = count_suffixes(Path(sample.path) for sample in samples)
    message = f"data: read {len(samples):,} images ({suffixes}) of {len(names):,} classes in {base}: {shown}{ellipsis}"
    log_once(log, logging.INFO, message)


def _log_parts(parts: Mapping[str, Sequence[Sample]], divided: str, base: Path) -> None:
    """Logs the number of images in train, val and test, and what was divided into them."""
    counts = ", ".join(f"{len(samples):,} {part}" for part, samples in parts.items())
    how = f", {divided} divided by data.split_ratios with data.seed" if divided else ", as named there"
    log_once(log, logging.INFO, f"data: the images of {base} are {counts}{how}")


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
    labels = [label_of[tidy(row.label), row.twin] for row in rows]
    opened = {
        Sample(sample_key(row.path), str(base / row.path), label, digest): row.split
        for row, label, digest in zip(rows, labels, hashes, strict=True)
        if digest is not None
    }
    names = tuple(name for name, _ in keys)
    usable = drop_contradictory(list(opened), names, args.on_error, cache)
    skipped["in several classes"] = len(opened) - len(usable)
    by_class: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    for sample in usable:
        by_class[sample.label, opened[sample]].append(sample)
    _log_classes(names, usable, base)

    splits = {row.split for row in rows}
    # Two in train, so that leave-one-out search finds another one, and one each in val and test.
    if splits == {""}:
        divided, shares = "", args.split_ratios
    else:
        if not {"train", "test"} <= splits or "" in splits:
            present = sorted(split or "none" for split in splits)
            raise UserError(f"data.root={args.root}: the splits are {present}; train and test are needed")
        total = args.split_ratios[0] + args.split_ratios[1]
        divided, shares = "train", [share / total for share in args.split_ratios[:2]]
    needs_division = "val" not in splits
    minimum = len(shares) + 1 if needs_division else 2
    by_label = [by_class[label, divided] for label in range(len(names))]
    counts = [count_distinct(samples) if needs_division else len(samples) for samples in by_label]
    kind = "different " * (sum(counts) < sum(map(len, by_label))) + "training " * bool(divided) + "images"
    small = _find_small(counts, minimum, args, names, kind)
    if divided:
        _warn_of_empty_classes(by_class, names, small, splits - {"train"})
    skipped["small class"] = sum(len(v) for (label, _), v in by_class.items() if label in small)

    remaining = [label for label in range(len(names)) if label not in small]
    if needs_division:
        copies = find_copies({label: by_label[label] for label in remaining}, names, minimum, cache)
    rng = random.Random(args.seed)
    train, val, test = [], [], []
    for label in remaining:
        class_parts = {split: by_class[label, split] for split in ("train", "val", "test")}
        if needs_division:
            samples = by_label[label]
            cuts = cut(samples, copies.of_class(samples, minimum), shares, rng)
            class_parts |= dict(zip(("train", "val", "test"), cuts))
        train, val, test = train + class_parts["train"], val + class_parts["val"], test + class_parts["test"]
    whole = {"": "each class", "train": "train and val"}[divided] if needs_division else ""
    _log_parts({"train": train, "val": val, "test": test}, whole, base)
    all_parts = {
        "train": train,
        "val_memory": train,
        "val": val,
        "test_memory": train,
        "test": test,
    }
    return Dataset(data_set_name(args), names, {part: all_parts[part] for part in parts}, skipped)
