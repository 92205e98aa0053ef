"""Draws the few labelled images per class that a memory is made from."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from data_prep.records import Sample


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
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_class[sample.label].append(sample)
    drawn: list[Sample] = []
    for items in by_class.values():
        drawn += rng.sample(items, shots) if len(items) >= shots else items
    return drawn
