"""Readers of data sets: from a layout on disk to samples by part.

Every data set has five parts. ``train`` is mined for ranking examples. ``val`` and ``test`` are the query images of
recognition, whose memories are sampled from ``val_memory`` and ``test_memory``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.names import disambiguate
from data_prep.core.records import Sample
from data_prep.datasets.armory import read_armory
from data_prep.datasets.coop import LAYOUTS, read_coop
from data_prep.datasets.emoji import read_emoji
from data_prep.datasets.fgvc_aircraft import read_fgvc_aircraft
from data_prep.datasets.fine_grained import read_cars196, read_cub200, read_dogs120, read_flowers102, read_pets37
from data_prep.datasets.folder import read_folder
from data_prep.datasets.imagefolder import read_imagefolder
from data_prep.datasets.imagenet import read_imagenet
from data_prep.datasets.parquet import read_parquet
from data_prep.datasets.raf_db import read_raf_db
from data_prep.datasets.webdataset import read_webdataset
from data_prep.extensions.finding import DATASETS, call_extension, list_entry_points, load_extension
from data_prep.reading.class_halves import TUNED_PARTS, leave_out_of_train, limit_classes
from data_prep.reading.dataset import Dataset
from data_prep.reading.descriptions import read_descriptions
from data_prep.reading.synonyms import read_synonyms
from data_prep.settings import DataArgs, check

log = logging.getLogger(__name__)

FEW_SHOT = {
    "imagenet": read_imagenet,
    **dict.fromkeys(LAYOUTS, read_coop),
    "fgvc_aircraft": read_fgvc_aircraft,
    "raf_db": read_raf_db,
}
FINE_GRAINED = {
    "cub200": read_cub200,
    "cars196": read_cars196,
    "dogs120": read_dogs120,
    "flowers102": read_flowers102,
    "pets37": read_pets37,
}
OWN = {
    "folder": read_folder,
    "imagefolder": read_imagefolder,
    "webdataset": read_webdataset,
    "parquet": read_parquet,
}
READERS = {"armory": read_armory, "emoji": read_emoji, **OWN, **FEW_SHOT, **FINE_GRAINED}


def load_reader(name: str) -> Callable[[DataArgs, Path, tuple[str, ...]], Dataset]:
    """Returns the reader of a data set: one of ``READERS``, or one of the user's own.

    Args:
        name: A name in ``READERS``; ``module:function``; or the name of an entry point in the group
            ``rar_train.datasets``.

    Raises:
        UserError: There is no such reader, or it cannot be imported.
    """
    if name in READERS:
        return READERS[name]
    reader = load_extension("data.name", name, DATASETS)
    if reader is None:
        names = ", ".join([*READERS, *list_entry_points(DATASETS)])
        raise UserError(f"data.name={name}: there are {names}; module:function names a reader of your own")

    def read_checked(*arguments: Any) -> Dataset:
        dataset = call_extension(reader, *arguments, failure=f"data.name={name}: it failed")
        return _check_dataset(name, dataset, arguments[2])

    return read_checked


def _check_dataset(name: str, dataset: Any, parts: tuple[str, ...]) -> Dataset:
    """Checks what a reader of the user's own returned."""
    shown = f"data.name={name}"
    if not isinstance(dataset, Dataset):
        raise UserError(f"{shown}: returned {type(dataset).__name__}; return a data_prep.reading.dataset.Dataset")
    names = dataset.names
    is_named = isinstance(names, tuple) and all(isinstance(name, str) and name.strip() for name in names)
    check(is_named, f"{shown}: names must be a tuple of class names, in the order of the labels")
    for part in parts:
        check(part in dataset.parts, f"{shown}: has no part {part}; it was asked for {', '.join(parts)}")
        keys: set[str] = set()
        for index, sample in enumerate(dataset.parts[part]):
            place = f"{shown}: sample {index} of {part}"
            check(isinstance(sample, Sample), f"{place} is {type(sample).__name__}; make it a data_prep Sample")
            is_label = isinstance(sample.label, int) and 0 <= sample.label < len(names)
            check(is_label, f"{place} has label {sample.label!r}; it is an int from 0 to {len(names) - 1}")
            is_digest = re.fullmatch("[0-9a-f]{64}", str(sample.digest)) is not None
            check(is_digest, f"{place} has digest {sample.digest!r}; it is the SHA-256 of the file, from hash_images")
            is_key = bool(sample.key) and "." not in sample.key and sample.key not in keys
            check(is_key, f"{place} has key {sample.key!r}; sample_key makes one that is unique and without dots")
            keys.add(sample.key)
    return dataset


def _check_classes(dataset: Dataset, args: DataArgs) -> None:
    """Raises an error for fewer than two classes, and warns of class names that are numbered to be distinct."""
    labels = dataset.labels("train") if "train" in dataset.parts else range(len(dataset.names))
    if len(labels) < 2:
        present = f"a single class, {dataset.names[labels[0]]!r}" if labels else "no class"
        source = f"data.root={args.root}" if args.root else f"data.name={args.name}"
        raise UserError(
            f"{source}: has {present}, and at least two are needed; if data.root is a folder above the "
            "classes, give the folder that holds the folders of classes"
        )
    numbered = [(n, s) for n, s in zip(dataset.names, disambiguate(dataset.names), strict=True) if n != s]
    if numbered:
        log.warning(
            "data: %d class names differ from an earlier one only in case, spaces or invisible characters, and are "
            "numbered, such as %r as %r; if they are one class, give them one name", len(numbered), *numbered[0]
        )  # fmt: skip


def read_dataset(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads parts of the recipe's data set. Classes that share a name are numbered, so that replies are unambiguous.

    Args:
        args: Name and settings of the data set; ``load_reader`` says what names there are.
        cache: Folder of caches.
        parts: The parts that are needed; armory generates no others.

    Raises:
        UserError: The data set is unknown, or its data has an error that the user must fix.

    Example:
        >>> from pathlib import Path
        >>> from data_prep import read_dataset
        >>> from data_prep.settings import DataArgs
        >>> dataset = read_dataset(DataArgs(name="folder", root="photographs"), Path("cache"), ("train", "test"))
        >>> dataset.names, sorted(dataset.parts)
        (('bend', 'cross', 'saltire'), ['test', 'train'])
    """
    reader = load_reader(args.name)
    if args.descriptions not in (None, "own") and not Path(args.descriptions).is_file():
        raise UserError(f"data.descriptions={args.descriptions}: no such file")
    dataset = reader(args, cache, parts)
    _check_classes(dataset, args)
    synonyms = read_synonyms(Path(args.root), dataset.names) if args.root else {}
    if args.tune_classes != "all":
        dataset = limit_classes(dataset, args.tune_classes, TUNED_PARTS, f"data.tune_classes={args.tune_classes}")
    if args.val_only_classes:
        dataset = leave_out_of_train(dataset, args.val_only_classes)
    return replace(
        dataset,
        names=disambiguate(dataset.names),
        unnumbered=dataset.names,
        synonyms=synonyms,
        descriptions=_describe(dataset, args),
    )


def _describe(dataset: Dataset, args: DataArgs) -> dict[int, tuple[str, ...]]:
    """Returns the classes' descriptions by label: the data set's own, or from the recipe's or the data set's file."""
    if args.descriptions == "own":
        return dataset.descriptions
    if args.descriptions is not None:
        return read_descriptions(Path(args.descriptions), dataset.names)
    root = Path(args.root) if args.root else None
    return read_descriptions(root if root.is_dir() else root.parent, dataset.names) if root else {}


__all__ = ["FEW_SHOT", "FINE_GRAINED", "OWN", "READERS", "Dataset", "load_reader", "read_dataset"]
