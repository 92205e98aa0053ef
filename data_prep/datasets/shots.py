"""Draws the few labelled images per class that a memory is made from."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import REMAKE, fingerprint, read_json, read_sealed, write_sealed
from data_prep.core.records import Sample


def group_by_class(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The images of each class; classes in the order of their first image."""
    found: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.label].append(sample)
    return list(found.values())


def draw_shots(samples: Sequence[Sample], shots: int, seed: int) -> list[Sample]:
    """Draws ``shots`` images of each class as CoOp does.

    CoOp seeds Python's generator once, visits the classes in the order of their first image and
    draws from each without replacement; a class with fewer images gives all of them.

    Args:
        samples: The training split, in its own order.
        shots: Images per class.
        seed: 1, 2 and 3 in the protocol.
    """
    rng = random.Random(seed)
    drawn: list[Sample] = []
    for items in group_by_class(samples):
        drawn += rng.sample(items, shots) if len(items) >= shots else items
    return drawn


def first_shots(samples: Sequence[Sample], shots: int) -> list[Sample]:
    """The first ``shots`` images of each class, as RAR's released code takes them."""
    return [sample for items in group_by_class(samples) for sample in items[:shots]]


def load_shots(samples: Sequence[Sample], shots: int, seed: int, draw: str, cache: Path) -> list[Sample]:
    """Draws shots, or reads those drawn before.

    What was drawn is kept as ``split_fewshot-…/shot_{n}-seed_{s}.json``, the name CoOp gives its pickles: a list of
    keys that others can read and compare, with its checksum. A bare list in its place is another's draw, and is taken
    as it is. Pickles are not read.

    Args:
        samples: The training split, in its own order.
        shots: Images per class.
        seed: Of the draw; without effect in ``first_n``.
        draw: ``coop`` or ``first_n``.
        cache: Folder of caches.

    Raises:
        UserError: A kept file is damaged, or another's draw names images that are not in the training split.
    """
    split = fingerprint([[sample.key, sample.label] for sample in samples])
    folder = cache / f"split_fewshot-{split}"
    path = folder / (f"shot_{shots}-seed_{seed}.json" if draw == "coop" else f"shot_{shots}-first_n.json")
    if path.exists():
        by_key = {sample.key: sample for sample in samples}
        found, remedy = read_json(path, REMAKE), "correct it, or delete it to have shots drawn"
        keys = found if isinstance(found, list) else read_sealed(path)
        if not all(isinstance(key, str) for key in keys):
            raise UserError(f"{path}: should be a list of keys; {remedy}")
        strange = [key for key in keys if key not in by_key]
        if strange:
            raise UserError(f"{path}: {strange[0]} is not in the training split; {remedy}")
        if len(set(keys)) < len(keys):
            raise UserError(f"{path}: lists an image twice; {remedy}")
        return [by_key[key] for key in keys]
    drawn = draw_shots(samples, shots, seed) if draw == "coop" else first_shots(samples, shots)
    write_sealed(path, [sample.key for sample in drawn])
    return drawn
