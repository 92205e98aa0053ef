"""Samples shots: the few labelled images per class that a memory is built from."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import REMAKE, fingerprint, read_json, read_sealed, write_sealed
from data_prep.core.records import Sample
from data_prep.datasets.shot_files import read_shot_file
from data_prep.reading.dataset import Dataset


def group_by_class(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Groups images by class; classes are in the order of their first image."""
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_class[sample.label].append(sample)
    return list(by_class.values())


def draw_shots(samples: Sequence[Sample], shots: int, seed: int) -> list[Sample]:
    """Samples ``shots`` images of each class as CoOp does.

    CoOp seeds Python's generator once, visits the classes in the order of their first image and samples from each
    without replacement; of a class with fewer images it takes all of them.

    Args:
        samples: The training split, in its original order.
        shots: Images per class.
        seed: 1, 2 and 3 in the protocol.
    """
    rng = random.Random(seed)
    selected: list[Sample] = []
    for items in group_by_class(samples):
        selected += rng.sample(items, shots) if len(items) >= shots else items
    return selected


def first_shots(samples: Sequence[Sample], shots: int) -> list[Sample]:
    """Returns the first ``shots`` images of each class, as RAR's released code takes them."""
    return [sample for items in group_by_class(samples) for sample in items[:shots]]


def load_shots(samples: Sequence[Sample], shots: int, seed: int, draw: str, cache: Path) -> list[Sample]:
    """Samples shots, or reads those sampled before.

    They are stored as ``split_fewshot-…/shot_{n}-seed_{s}.json``, the name that CoOp gives its pickles: a list of keys
    with its checksum, which others can read and compare. A list without checksum in its place is used as it is: shots
    that others sampled. Pickles are not read.

    Args:
        samples: The training split, in its original order.
        shots: Images per class.
        seed: Seed of the sampling; without effect in ``first_n``.
        draw: ``coop``, ``first_n``, or ``2sfs``, which reads files; see ``read_shot_file``.
        cache: Folder of caches.

    Raises:
        UserError: A stored file is damaged, a given list contains keys that are not in the training split, or 2SFS's
            file cannot be used.
    """
    if draw == "2sfs":
        return read_shot_file(samples, shots, seed)
    split = fingerprint([[sample.key, sample.label] for sample in samples])
    folder = cache / f"split_fewshot-{split}"
    path = folder / (f"shot_{shots}-seed_{seed}.json" if draw == "coop" else f"shot_{shots}-first_n.json")
    if path.exists():
        by_key = {sample.key: sample for sample in samples}
        content, remedy = read_json(path, REMAKE), "correct it, or delete it to have shots sampled"
        keys = content if isinstance(content, list) else read_sealed(path)
        if not all(isinstance(key, str) for key in keys):
            raise UserError(f"{path}: should be a list of keys; {remedy}")
        unknown = [key for key in keys if key not in by_key]
        if unknown:
            raise UserError(f"{path}: {unknown[0]} is not in the training split; {remedy}")
        if len(set(keys)) < len(keys):
            raise UserError(f"{path}: lists an image twice; {remedy}")
        return [by_key[key] for key in keys]
    selected = draw_shots(samples, shots, seed) if draw == "coop" else first_shots(samples, shots)
    write_sealed(path, [sample.key for sample in selected])
    return selected


def part_shots(dataset: Dataset, part: str, shots: int, seed: int, draw: str, cache: Path) -> list[Sample]:
    """Samples shots of a part as ``load_shots`` does; where its classes are limited, of those classes.

    Args:
        dataset: With the part.
        part: A memory's part.
        shots: Images per class.
        seed: Seed of the sampling.
        draw: As for ``load_shots``.
        cache: Folder of caches.
    """
    samples = dataset.parts[part]
    if part not in dataset.pools:
        return load_shots(samples, shots, seed, draw, cache)
    kept = {sample.key for sample in samples}
    return [s for s in load_shots(dataset.pools[part], shots, seed, draw, cache) if s.key in kept]
