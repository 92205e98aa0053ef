"""From what a benchmark's own files list to a data set: the part that readers of fixed splits share."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.reading.dataset import PARTS, Dataset, digests, find_missing, sample_key
from data_prep.reading.tables import with_slashes
from data_prep.settings import DataArgs

log = logging.getLogger(__name__)

Items = list[tuple[str, int]]
"""Images as (path relative to the base, label)."""


@dataclass(frozen=True)
class Listing:
    """What a layout's files list, before an image is opened.

    Attributes:
        base: The folder that paths are relative to.
        names: Class names by label.
        splits: Images by ``train``, ``test`` and, where the benchmark has it, ``val``, in the benchmark's order,
            which CoOp's draw depends on.
        source: Where the data set is had, for errors.
        templates: The benchmark's prompts around a class name.
    """

    base: Path
    names: tuple[str, ...]
    splits: dict[str, Items]
    source: str
    templates: tuple[str, ...] = ()


def find_base(args: DataArgs, folders: tuple[str, ...], holds: str, source: str) -> Path:
    """Finds a data set's folder: in ``data.root``, or ``data.root`` itself.

    Args:
        args: Name and root.
        folders: What the folder may be called, most common first.
        holds: A file or folder in it that tells it from others.
        source: Where the data set is had.

    Raises:
        UserError: ``data.root`` is not set, or none of these holds it.
    """
    if not args.root:
        raise UserError(f"data.name={args.name} needs data.root=FOLDER, which holds {folders[0]}; had from {source}")
    root = Path(args.root)
    for base in (*(root / folder for folder in folders), root):
        if (base / holds).exists():
            return base
    raise UserError(
        f"data.root={root}: neither {root / folders[0] / holds} nor {root / holds} exists; {args.name} is had from "
        f"{source}, and docs/datasets.md shows its layout"
    )


def read_lines(path: Path, source: str) -> list[str]:
    """The lines of a benchmark's text file, without empty ones.

    Raises:
        UserError: The file is missing or is not text.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the data set is had from {source}") from None
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); the data set is had from {source}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not readable as text in UTF-8; the data set is had from {source}") from None
    return [line for line in lines if line]


def read_pairs(path: Path, source: str) -> list[tuple[str, str]]:
    """The lines of a text file, each cut at its first space.

    Raises:
        UserError: The file is missing, or a line is one word.
    """
    pairs = []
    for number, line in enumerate(read_lines(path, source), 1):
        first, _, rest = line.partition(" ")
        if not rest:
            raise UserError(f"{path}, entry {number}: {line!r} should be two fields; the data set is had from {source}")
        pairs.append((first, rest.strip()))
    return pairs


def underscores_to_spaces(name: str) -> str:
    """A class name as words: benchmarks write underscores for spaces."""
    return name.replace("_", " ")


def _held_out(train: list[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Takes a share of each class from train, where a benchmark has no images to make choices on."""
    rng = random.Random(seed)
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in train:
        by_class[sample.label].append(sample)
    chosen = set()
    for items in by_class.values():
        chosen |= {s.key for s in rng.sample(items, min(max(1, round(share * len(items))), len(items) - 1))}
    return [s for s in train if s.key not in chosen], [s for s in train if s.key in chosen]


def _with_slashes(listing: Listing) -> Listing:
    """A listing whose files may have been written on Windows."""
    splits = {
        split: [(with_slashes(path, listing.base), label) for path, label in items]
        for split, items in listing.splits.items()
    }
    return replace(listing, splits=splits)


def _check(listing: Listing, args: DataArgs) -> None:
    """Refuses lists that no copy of the benchmark can have."""
    for split, items in listing.splits.items():
        if not items:
            raise UserError(f"{listing.base}: {args.name}'s {split} lists no images; it is had from {listing.source}")
        twice = [path for path, count in Counter(path for path, _ in items).items() if count > 1]
        if twice:
            raise UserError(f"{listing.base}: {args.name}'s {split} lists {twice[0]} twice; it has {len(twice)} such")
    train, test = ({path for path, _ in listing.splits[split]} for split in ("train", "test"))
    if both := train & test:
        log.warning("%s: %d images stand in both train and test, such as %s", args.name, len(both), min(both))


def _samples(listing: Listing, split: str, args: DataArgs, cache: Path) -> tuple[list[Sample], int]:
    """Opens a split's images; gives the samples, and how many were left out as unreadable."""
    items = listing.splits[split]
    paths = [listing.base / path for path, _ in items]
    missing = find_missing(paths)
    if missing:
        raise UserError(
            f"{missing[0]}: no such image ({len(missing)} of {len(paths)} in {split} are missing); {args.name} is had "
            f"from {listing.source}; where all are missing, the split file may be another data set's"
        )
    try:
        found = digests(paths, cache, args.on_error)
    except UserError as error:
        raise UserError(f"{error}; {args.name} is had from {listing.source}") from None
    samples = [
        Sample(sample_key(path), str(listing.base / path), label, digest)
        for (path, label), digest in zip(items, found, strict=True)
        if digest is not None
    ]
    return samples, len(items) - len(samples)


def _drop_empty(listing: Listing, args: DataArgs, opened: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    """Refuses classes without training images, or leaves them out of every split."""
    training = [s.label for s in opened["train"]] if "train" in opened else [i for _, i in listing.splits["train"]]
    empty = sorted(set(range(len(listing.names))) - set(training))
    if empty and args.on_small_class == "error":
        shown = ", ".join(listing.names[label] for label in empty[:5])
        raise UserError(
            f"{listing.base}: {len(empty)} of {len(listing.names)} classes of {args.name} have no training images: "
            f"{shown}; complete it from {listing.source}, or set data.on_small_class=skip"
        )
    return {split: [s for s in samples if s.label not in empty] for split, samples in opened.items()}


def to_dataset(listing: Listing, args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Makes a data set of a listing.

    ``train`` and the memories are ``train``, ``val`` is ``val``, ``test`` is ``test``. A benchmark without
    ``val`` has a share of each training class held out for development, from ``train`` and ``val_memory``
    alone: ``test_memory`` stays the whole of ``train``, as the protocol draws from it.

    Args:
        listing: What the layout's files list.
        args: Name, seed, shares and policies.
        cache: Folder of caches.
        parts: The parts that are needed; images of no other are opened.

    Raises:
        UserError: An image is missing or unreadable, or a class has no training images.
    """
    listing = _with_slashes(listing)
    _check(listing, args)
    has_val = "val" in listing.splits
    val = "val" if has_val else "train"
    split_of = dict.fromkeys(PARTS, "train") | {"val": val, "test": "test"}
    opened: dict[str, list[Sample]] = {}
    skipped: Counter[str] = Counter()
    for split in sorted({split_of[part] for part in parts}):
        opened[split], unreadable = _samples(listing, split, args, cache)
        skipped["unreadable"] += unreadable
    whole = _drop_empty(listing, args, opened)
    for split, samples in opened.items():
        if without := sorted(set(range(len(listing.names))) - {s.label for s in samples}):
            shown = ", ".join(listing.names[label] for label in without[:5])
            log.warning("%s: %d classes have no %s images: %s", args.name, len(without), split, shown)
    skipped["small class"] = sum(len(opened[split]) - len(whole[split]) for split in opened)
    lists = {part: whole[split_of[part]] for part in parts}
    if not has_val and "train" in whole:
        kept, held = _held_out(
            whole["train"], args.split_ratios[1] / (args.split_ratios[0] + args.split_ratios[1]), args.seed
        )
        own = {"train": kept, "val_memory": kept, "val": held}
        lists |= {part: own[part] for part in parts if part in own}
    return Dataset(args.name, listing.names, lists, skipped, templates=listing.templates)
