"""Checks of a recipe's data, by listing it; decoding every image is left to the run, or to ``--read-data``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.armory.blazon import draw_classes
from data_prep.core.names import tidy
from data_prep.datasets import READERS, read_dataset
from data_prep.datasets.folder import list_rows
from data_prep.mining.shards import ShardedExamples
from data_prep.reading.dataset import PARTS, find_missing
from data_prep.settings import DataArgs, Recipe, check
from rar_train.doctor.findings import Finding, made

_LEAST = 2


@dataclass
class Listed:
    """What is known of the mined data without decoding it.

    Attributes:
        names: Class names; empty where they are not known.
        images: Images that are mined; None where that is not known.
    """

    names: list[str] = field(default_factory=list)
    images: int | None = None


def data_findings(recipe: Recipe, read: bool) -> tuple[list[Finding], Listed]:
    """Checks the recipe's data sets.

    Args:
        recipe: Its data, and what is mined beside it.
        read: Decodes every image, as the run would.

    Returns:
        tuple[list[Finding], Listed]: The findings, and what is known of ``data``.
    """
    listed = Listed()
    findings = made("data", check_data, recipe.data, Path(recipe.cache), read, listed)
    for number, other in enumerate(recipe.mining.mix):
        more = Listed()
        findings += made(f"mining.mix[{number}]", check_data, other.data, Path(recipe.cache), read, more)
        listed.names += more.names
        listed.images = listed.images + more.images if listed.images and more.images else None
    if recipe.mining.shards:
        findings += made("shards", check_shards, recipe.mining.shards, listed)
    return findings, listed


def check_shards(folder: str, listed: Listed) -> list[Finding]:
    """Whether a folder holds shards to tune on."""
    examples = ShardedExamples(Path(folder))
    listed.images = len(examples)
    listed.names = [c.name for number in range(min(len(examples), 1000)) for c in examples.example(number).candidates]
    return [Finding("shards", "ok", f"{len(examples)} ranking examples in {folder}")]


def check_data(args: DataArgs, cache: Path, read: bool, listed: Listed) -> list[Finding]:
    """Whether a data set is there and has at least two classes with two images.

    Args:
        args: The data set.
        cache: Folder of caches, for ``read``.
        read: Whether to decode everything.
        listed: Filled with what is found.

    Raises:
        UserError: The data set is unknown, or not as its reader wants it.
    """
    check(args.name in READERS, f"data.name={args.name}: there are {', '.join(READERS)}")
    if read:
        return _read(args, cache, listed)
    if args.name == "armory":
        sizes = args.armory
        classes = draw_classes("train", sizes.train_classes, sizes.family_size, args.seed)
        listed.names = [blazon.name for blazon in classes]
        listed.images = sizes.train_classes * sizes.train_images
        said = f"armory, drawn when needed: {sizes.train_classes} training classes, {sizes.train_images} pictures each"
        return [Finding("data", "ok" if sizes.train_classes >= _LEAST else "failure", said)]
    check(args.root is not None, f"data.name={args.name} needs data.root=PATH")
    check(Path(args.root).exists(), f"data.root={args.root}: no such folder or file")
    if args.name == "folder":
        return _folder(args, listed)
    said = f"{args.root} is there; its layout ({args.name}) is not listed without being read"
    return [Finding("data", "not checked", said, "add --read-data, which decodes every image")]


def _folder(args: DataArgs, listed: Listed) -> list[Finding]:
    layout = list_rows(Path(args.root), args.label_column)
    rows = layout.rows
    missing = find_missing([layout.base / row.path for row in rows])
    check(not missing, f"{missing[0] if missing else ''}: no such image ({len(missing)} of {len(rows)} missing)")
    splits = {row.split for row in rows}
    check(splits == {""} or {"train", "test"} <= splits, f"data.root={args.root}: needs splits train and test, or none")
    # As data_prep.datasets.folder divides them: two to leave one out, one each to choose and to measure on.
    least, share = {
        frozenset([""]): (4, args.split_ratios[0]),
        frozenset(["train", "test"]): (3, args.split_ratios[0] / sum(args.split_ratios[:2])),
    }.get(frozenset(splits), (2, 1.0))
    counts = Counter(dict.fromkeys(map(tidy, [*layout.classes, *(row.label for row in rows)]), 0))
    counts.update(tidy(row.label) for row in rows if row.split in ("", "train"))
    small = sorted(label for label, count in counts.items() if count < least)
    listed.names = sorted(set(counts) - set(small))
    listed.images = round(share * sum(counts[label] for label in listed.names))
    return _judged(args, len(counts), small, least, f"{len(rows)} images")


def _judged(args: DataArgs, classes: int, small: list[str], least: int, images: str) -> list[Finding]:
    said = f"{images} of {classes} classes"
    if classes - len(small) < _LEAST:
        return [Finding("data", "failure", f"{said}; {len(small)} have fewer than {least} to train on", "add images")]
    if small:
        status = "failure" if args.on_small_class == "error" else "warning"
        few = f"{said}; fewer than {least} to train on: {', '.join(small[:5])} ({len(small)} such classes)"
        return [Finding("data", status, few, "add images, or set data.on_small_class=skip" * (status == "failure"))]
    return [Finding("data", "ok", f"{said}; whether each decodes was not checked (--read-data)")]


def _read(args: DataArgs, cache: Path, listed: Listed) -> list[Finding]:
    dataset = read_dataset(args, cache, PARTS)
    counts = Counter(sample.label for sample in dataset.parts["train"])
    enough = [label for label, count in counts.items() if count >= _LEAST]
    listed.names = [dataset.names[label] for label in counts]
    listed.images = sum(counts.values())
    parts = ", ".join(f"{len(samples)} {part}" for part, samples in dataset.parts.items())
    said = f"{dataset.name}, decoded: {len(dataset.names)} classes; images: {parts}"
    if len(enough) < _LEAST:
        return [Finding("data", "failure", f"{said}; {len(enough)} classes have two to train on", "add images")]
    skipped = {reason: count for reason, count in dataset.skipped.items() if count}
    if skipped:
        left = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        return [
            Finding(
                "data",
                "warning",
                f"{said}; left out: {left}",
                f"the lists are in {cache}: skipped-*.jsonl, passed-over-*.jsonl",
            )
        ]
    return [Finding("data", "ok", said)]
