"""Checks of a recipe's data by listing files; images are decoded only with ``--read-data``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.armory.blazon import draw_classes
from data_prep.core.names import tidy
from data_prep.datasets import READERS, load_reader, read_dataset
from data_prep.datasets.folder import Layout, list_labelled
from data_prep.mining.shards import ShardedExamples
from data_prep.reading.class_halves import half_labels
from data_prep.reading.dataset import PARTS, find_missing
from data_prep.settings import DataArgs, Recipe, check
from rar_train.doctor.files import file_findings
from rar_train.doctor.findings import Finding, run_check

_MIN_CLASSES = 2
_MIN_PER_CLASS = 2


@dataclass
class DataSummary:
    """Properties of the mined data that are known without decoding it.

    Attributes:
        names: Class names; empty where unknown.
        images: Number of mined images; None where unknown.
        class_sizes: Number of images in each class that evaluation draws shots from; empty where unknown.
        val_images: Number of validation images; None where unknown.
    """

    names: list[str] = field(default_factory=list)
    images: int | None = None
    class_sizes: list[int] = field(default_factory=list)
    val_images: int | None = None


def data_findings(recipe: Recipe, read: bool) -> tuple[list[Finding], DataSummary]:
    """Checks the recipe's data sets.

    Args:
        recipe: Its ``data``, ``mining.mix`` and ``mining.shards``.
        read: Whether to decode every image, as the run would.

    Returns:
        tuple[list[Finding], DataSummary]: The findings, and what is known of the data.
    """
    summary = DataSummary()
    findings = run_check("data", check_data, recipe.data, Path(recipe.cache), read, summary)
    for index, source in enumerate(recipe.mining.mix):
        part = DataSummary()
        findings += run_check(f"mining.mix[{index}]", check_data, source.data, Path(recipe.cache), read, part)
        summary.names += part.names
        summary.images = summary.images + part.images if summary.images and part.images else None
    if recipe.mining.shards:
        findings += run_check("shards", check_shards, recipe.mining.shards, summary)
    return findings, summary


def check_shards(folder: str, summary: DataSummary) -> list[Finding]:
    """Checks that a folder contains shards of training examples."""
    examples = ShardedExamples(Path(folder))
    summary.images = len(examples)
    summary.names = [c.name for index in range(min(len(examples), 1000)) for c in examples.example(index).candidates]
    return [Finding("shards", "ok", f"{len(examples)} ranking examples in {folder}")]


def check_data(args: DataArgs, cache: Path, read: bool, summary: DataSummary) -> list[Finding]:
    """Checks that a data set exists and has at least two classes with two images.

    Args:
        args: The data set.
        cache: Folder of caches, for ``read``.
        read: Whether to decode everything.
        summary: Filled in by the check.

    Raises:
        UserError: The data set is unknown, or its layout is not what its reader expects.
    """
    load_reader(args.name)
    if read:
        return _read_data(args, cache, summary)
    if args.name == "armory":
        sizes = args.armory
        classes = draw_classes("train", sizes.train_classes, sizes.family_size, args.seed)
        summary.names = [blazon.name for blazon in classes]
        summary.images = sizes.train_classes * sizes.train_images
        summary.class_sizes = [sizes.memory_images] * sizes.test_classes
        summary.val_images = sizes.val_classes * sizes.query_images
        text = f"armory, rendered when needed: {sizes.train_classes} training classes, {sizes.train_images} images each"
        return [Finding("data", "ok" if sizes.train_classes >= _MIN_CLASSES else "failure", text)]
    if args.name not in READERS and args.root is None:
        text = f"{args.name}, a reader of your own, which can't be listed without reading it"
        return [Finding("data", "not checked", text, "add --read-data, which decodes every image")]
    check(args.root is not None, f"data.name={args.name} needs data.root=PATH")
    check(Path(args.root).exists(), f"data.root={args.root}: no such folder or file")
    if args.name == "folder":
        layout = list_labelled(Path(args.root), args)
        return _check_folder(layout, args, summary) + file_findings(layout)
    text = f"{args.root} exists; its layout ({args.name}) can't be listed without reading it"
    return [Finding("data", "not checked", text, "add --read-data, which decodes every image")]


def _check_folder(layout: Layout, args: DataArgs, summary: DataSummary) -> list[Finding]:
    rows = layout.rows
    missing = find_missing([layout.base / row.path for row in rows])
    check(not missing, f"{missing[0] if missing else ''}: no such image ({len(missing)} of {len(rows)} missing)")
    splits = {row.split for row in rows}
    check(splits == {""} or {"train", "test"} <= splits, f"data.root={args.root}: needs splits train and test, or none")
    # The split of data_prep.datasets.folder: two for training (leave-one-out), one each for validation and test.
    min_images, share = {
        frozenset([""]): (4, args.split_ratios[0]),
        frozenset(["train", "test"]): (3, args.split_ratios[0] / sum(args.split_ratios[:2])),
    }.get(frozenset(splits), (2, 1.0))
    counts = Counter(dict.fromkeys(map(tidy, [*layout.classes, *(row.label for row in rows)]), 0))
    counts.update(tidy(row.label) for row in rows if row.split in ("", "train"))
    small = sorted(label for label, count in counts.items() if count < min_images)
    summary.names = sorted(set(counts) - set(small))
    summary.class_sizes = [round(share * counts[label]) for label in summary.names]
    tuned = set(summary.names)
    if args.tune_classes != "all":
        names = sorted(counts)
        tuned &= {names[label] for label in half_labels(len(names), args.tune_classes)}
    summary.images = round(share * sum(counts[label] for label in tuned))
    in_val = sum(row.split == "val" and tidy(row.label) in tuned for row in rows)
    summary.val_images = in_val or round(summary.images * args.split_ratios[1] / args.split_ratios[0])
    return _judge_classes(args, len(counts), small, min_images, f"{len(rows)} images")


def _judge_classes(args: DataArgs, classes: int, small: list[str], min_images: int, images: str) -> list[Finding]:
    text = f"{images} of {classes} classes"
    if classes - len(small) < _MIN_CLASSES:
        few = f"{text}; {len(small)} have fewer than {min_images} to train on"
        return [Finding("data", "failure", few, "add images")]
    if small:
        status = "failure" if args.on_small_class == "error" else "warning"
        few = f"{text}; fewer than {min_images} to train on: {', '.join(small[:5])} ({len(small)} such classes)"
        return [Finding("data", status, few, "add images, or set data.on_small_class=skip" * (status == "failure"))]
    return [Finding("data", "ok", f"{text}, listed and not opened; --read-data opens each")]


def _read_data(args: DataArgs, cache: Path, summary: DataSummary) -> list[Finding]:
    dataset = read_dataset(args, cache, PARTS)
    counts = Counter(sample.label for sample in dataset.parts["train"])
    enough = [label for label, count in counts.items() if count >= _MIN_PER_CLASS]
    summary.names = [dataset.names[label] for label in counts]
    summary.images = sum(counts.values())
    summary.class_sizes = list(Counter(sample.label for sample in dataset.parts["test_memory"]).values())
    summary.val_images = len(dataset.parts["val"])
    parts = ", ".join(f"{len(samples)} {part}" for part, samples in dataset.parts.items())
    text = f"{dataset.name}, decoded: {len(dataset.names)} classes; images: {parts}"
    if len(enough) < _MIN_CLASSES:
        return [Finding("data", "failure", f"{text}; {len(enough)} classes have two to train on", "add images")]
    findings = []
    if len(enough) < len(counts):
        few = ", ".join([dataset.names[label] for label in counts if label not in enough][:5])
        single = f"{len(counts) - len(enough)} of {len(counts)} training classes have one image: {few}"
        advice = "add images: an image finds its class only by another of the class, or by the name"
        findings = [Finding("data", "warning", single, advice)]
    skipped = {reason: count for reason, count in dataset.skipped.items() if count}
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        advice = f"the lists are in {cache}: skipped-*.jsonl, passed-over-*.jsonl"
        return [Finding("data", "warning", f"{text}; left out: {reasons}", advice), *findings]
    return [Finding("data", "ok", text), *findings]
