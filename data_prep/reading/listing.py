"""Turns a benchmark's own file lists into a data set; shared by the readers of fixed splits."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.reading.dataset import (
    PARTS,
    Dataset,
    count_suffixes,
    find_missing,
    hash_images,
    log_once,
    sample_key,
)
from data_prep.reading.tables import with_slashes
from data_prep.settings import DataArgs

log = logging.getLogger(__name__)

Items = list[tuple[str, int]]
"""Images as (path relative to the base, label)."""


@dataclass(frozen=True)
class Listing:
    """The file lists of a benchmark, before any image is opened.

    Attributes:
        base: The folder that paths are relative to.
        names: Class names by label.
        splits: Images by ``train``, ``test`` and, where the benchmark has it, ``val``, in the benchmark's order,
            which CoOp's sampling of shots depends on.
        source: Where to download the data set, for errors.
        templates: The benchmark's prompt templates.
    """

    base: Path
    names: tuple[str, ...]
    splits: dict[str, Items]
    source: str
    templates: tuple[str, ...] = ()


def find_base(args: DataArgs, folders: tuple[str, ...], marker: str, source: str) -> Path:
    """Finds a data set's folder: in ``data.root``, or ``data.root`` itself.

    Args:
        args: Name and root.
        folders: Possible names of the folder, most common first.
        marker: A file or folder in it that identifies it.
        source: Where to download the data set.

    Raises:
        UserError: ``data.root`` is not set, or none of these folders contains the marker.
    """
    if not args.root:
        raise UserError(
            f"data.name={args.name} needs data.root=FOLDER, which holds {folders[0]}; download it from {source}"
        )
    root = Path(args.root)
    for base in (*(root / folder for folder in folders), root):
        if (base / marker).exists():
            return base
    raise UserError(
        f"data.root={root}: neither {root / folders[0] / marker} nor {root / marker} exists; download {args.name} from "
        f"{source}; docs/datasets.md shows its layout"
    )


def read_lines(path: Path, source: str) -> list[str]:
    """Reads the lines of a benchmark's text file, without empty ones.

    Raises:
        UserError: The file is missing or is not text.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; download the data set from {source}") from None
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); download the data set from {source}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not readable as text in UTF-8; download the data set from {source}") from None
    return [line for line in lines if line]


def read_pairs(path: Path, source: str) -> list[tuple[str, str]]:
    """Reads the lines of a text file, each split at its first space.

    Raises:
        UserError: The file is missing, or a line is a single word.
    """
    pairs = []
    for number, line in enumerate(read_lines(path, source), 1):
        first, _, rest = line.partition(" ")
        if not rest:
            raise UserError(
                f"{path}, entry {number}: {line!r} should be two fields; download the data set from {source}"
            )
        pairs.append((first, rest.strip()))
    return pairs


def underscores_to_spaces(name: str) -> str:
    """Returns a class name as words: benchmarks write underscores for spaces."""
    return name.replace("_", " ")


def _hold_out(train: list[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Splits a share of each class off train, for a benchmark without validation images.

    Copies of an image go with it, in other classes too, unless that would leave a class without training images.
    """
    rng = random.Random(seed)
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in train:
        by_class[sample.label].append(sample)
    held_out = set()
    for items in by_class.values():
        held_out |= {s.digest for s in rng.sample(items, min(max(1, round(share * len(items))), len(items) - 1))}
    for items in by_class.values():
        if all(sample.digest in held_out for sample in items):
            held_out.remove(items[0].digest)
    return [s for s in train if s.digest not in held_out], [s for s in train if s.digest in held_out]


def _normalise_slashes(listing: Listing) -> Listing:
    """Replaces the backslashes in a listing that was written on Windows."""
    splits = {
        split: [(with_slashes(path, listing.base), label) for path, label in items]
        for split, items in listing.splits.items()
    }
    return replace(listing, splits=splits)


def _check(listing: Listing, args: DataArgs) -> None:
    """Raises an error for lists that no copy of the benchmark can have: empty ones, or with repeated paths."""
    for split, items in listing.splits.items():
        if not items:
            raise UserError(
                f"{listing.base}: {args.name}'s {split} lists no images; download the data set from {listing.source}"
            )
        repeated = [path for path, count in Counter(path for path, _ in items).items() if count > 1]
        if repeated:
            raise UserError(
                f"{listing.base}: {args.name}'s {split} lists {repeated[0]} twice ({len(repeated)} such paths); "
                f"download the data set from {listing.source}"
            )
    train, test = ({path for path, _ in listing.splits[split]} for split in ("train", "test"))
    if both := train & test:
        log.warning("%s: %d images are in both train and test, such as %s", args.name, len(both), min(both))


def _open_split(listing: Listing, split: str, args: DataArgs, cache: Path) -> tuple[list[Sample], int]:
    """Opens a split's images; returns the samples, and how many images were left out as unreadable."""
    items = listing.splits[split]
    paths = [listing.base / path for path, _ in items]
    missing = find_missing(paths)
    if missing:
        raise UserError(
            f"{missing[0]}: no such image ({len(missing)} of {len(paths)} in {split} are missing); download "
            f"{args.name} from {listing.source}; if all are missing, the split file may be another data set's"
        )
    try:
        hashes = hash_images(paths, cache, args.on_error)
    except UserError as error:
        raise UserError(f"{error}; download {args.name} from {listing.source}") from None
    samples = [
        Sample(sample_key(path), str(listing.base / path), label, digest)
        for (path, label), digest in zip(items, hashes, strict=True)
        if digest is not None
    ]
    return samples, len(items) - len(samples)


def _drop_empty(listing: Listing, args: DataArgs, opened: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    """Drops classes without training images from every split, or raises an error for them."""
    train_labels = [s.label for s in opened["train"]] if "train" in opened else [i for _, i in listing.splits["train"]]
    empty = sorted(set(range(len(listing.names))) - set(train_labels))
    if empty and args.on_small_class == "error":
        shown = ", ".join(listing.names[label] for label in empty[:5])
        raise UserError(
            f"{listing.base}: {len(empty)} of {len(listing.names)} classes of {args.name} have no training images: "
            f"{shown}; download the missing images from {listing.source}, or set data.on_small_class=skip"
        )
    return {split: [s for s in samples if s.label not in empty] for split, samples in opened.items()}


def to_dataset(listing: Listing, args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Builds a data set from a listing.

    The parts ``train``, ``val_memory`` and ``test_memory`` are the benchmark's ``train``; ``val`` and ``test`` are
    its ``val`` and ``test``. For a benchmark without ``val``, a share of each training class is held out as ``val``,
    from ``train`` and ``val_memory`` only: ``test_memory`` remains all of ``train``, since the protocol samples
    shots from it.

    Args:
        listing: The file lists of the benchmark.
        args: Name, seed, split ratios and policies.
        cache: Folder of caches.
        parts: The parts that are needed; images of other parts are not opened.

    Raises:
        UserError: An image is missing or unreadable, or a class has no training images.
    """
    listing = _normalise_slashes(listing)
    _check(listing, args)
    has_val = "val" in listing.splits
    val = "val" if has_val else "train"
    split_of = dict.fromkeys(PARTS, "train") | {"val": val, "test": "test"}
    opened: dict[str, list[Sample]] = {}
    skipped: Counter[str] = Counter()
    for split in sorted({split_of[part] for part in parts}):
        opened[split], unreadable = _open_split(listing, split, args, cache)
        skipped["unreadable"] += unreadable
    read = [Path(sample.path) for samples in opened.values() for sample in samples]
    suffixes, splits = count_suffixes(read), ", ".join(opened)
    log_once(log, logging.INFO, f"data: read {len(read):,} images ({suffixes}) of {splits} in {listing.base}")
    complete = _drop_empty(listing, args, opened)
    for split, samples in opened.items():
        if absent := sorted(set(range(len(listing.names))) - {s.label for s in samples}):
            shown = ", ".join(listing.names[label] for label in absent[:5])
            log.warning("%s: %d classes have no %s images: %s", args.name, len(absent), split, shown)
    skipped["small class"] = sum(len(opened[split]) - len(complete[split]) for split in opened)
    samples_by_part = {part: complete[split_of[part]] for part in parts}
    if not has_val and "train" in complete:
        val_share = args.split_ratios[1] / (args.split_ratios[0] + args.split_ratios[1])
        remaining, held_out = _hold_out(complete["train"], val_share, args.seed)
        from_train = {"train": remaining, "val_memory": remaining, "val": held_out}
        samples_by_part |= {part: from_train[part] for part in parts if part in from_train}
    return Dataset(args.name, listing.names, samples_by_part, skipped, templates=listing.templates)
