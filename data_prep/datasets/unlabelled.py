"""Draws the unlabelled images that names are discovered from (FineR's protocol, arXiv 2401.13837)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from data_prep.core.records import Sample
from data_prep.core.rng import rng_for
from data_prep.datasets.shots import draw_shots, group_by_class
from data_prep.settings import DiscoverArgs

UNLABELLED = -2
"""The label of an image whose class nothing may know; no class has it."""


def _zipf(samples: Sequence[Sample], args: DiscoverArgs, seed: int) -> list[Sample]:
    """From 1 to ``most`` images of each class, their number by Zipf's law."""
    rng, drawn = random.Random(seed), []
    classes = group_by_class(samples)
    counts = rng_for("zipf", seed).zipf(args.exponent, len(classes))
    for items, count in zip(classes, counts.tolist(), strict=True):
        drawn += rng.sample(items, min(count, args.max_images_per_class, len(items)))
    return drawn


def draw_unlabelled(samples: Sequence[Sample], args: DiscoverArgs, seed: int) -> list[Sample]:
    """Draws images and takes their labels away.

    Args:
        samples: The training split, in its own order.
        args: ``draw`` and what belongs to it.
        seed: Of the draw.

    Returns:
        list[Sample]: In the order of their digests, so that the order tells no class; each labelled
        ``UNLABELLED``. Byte-identical images stand once.
    """
    if args.draw == "zipf":
        drawn = _zipf(samples, args, seed)
    elif args.draw == "uniform":
        count = min(args.images * len(group_by_class(samples)), len(samples))
        drawn = random.Random(seed).sample(list(samples), count)
    else:
        drawn = draw_shots(samples, args.images, seed)
    distinct = {sample.digest: replace(sample, label=UNLABELLED) for sample in drawn}
    return sorted(distinct.values(), key=lambda sample: sample.digest)
