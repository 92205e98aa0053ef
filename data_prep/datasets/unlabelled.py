"""Samples the unlabelled images that names are discovered from (FineR's protocol, arXiv 2401.13837)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from data_prep.core.records import Sample, SpecialLabel
from data_prep.core.rng import rng_for
from data_prep.datasets.shots import draw_shots, group_by_class
from data_prep.settings import DiscoverArgs


def _sample_zipf(samples: Sequence[Sample], args: DiscoverArgs, seed: int) -> list[Sample]:
    """Samples 1 to ``max_images_per_class`` images of each class, with counts by Zipf's law."""
    rng, selected = random.Random(seed), []
    classes = group_by_class(samples)
    counts = rng_for("zipf", seed).zipf(args.exponent, len(classes))
    for items, count in zip(classes, counts.tolist(), strict=True):
        selected += rng.sample(items, min(count, args.max_images_per_class, len(items)))
    return selected


def draw_unlabelled(samples: Sequence[Sample], args: DiscoverArgs, seed: int) -> list[Sample]:
    """Samples images and removes their labels.

    Args:
        samples: The training split, in its original order.
        args: ``draw``, ``images``, ``max_images_per_class`` and ``exponent``.
        seed: Seed of the sampling.

    Returns:
        list[Sample]: Sorted by digest, so that the order does not reveal classes; all labelled ``UNLABELLED``.
        Byte-identical images occur once.
    """
    if args.draw == "zipf":
        selected = _sample_zipf(samples, args, seed)
    elif args.draw == "uniform":
        count = min(args.images * len(group_by_class(samples)), len(samples))
        selected = random.Random(seed).sample(list(samples), count)
    else:
        selected = draw_shots(samples, args.images, seed)
    distinct = {sample.digest: replace(sample, label=SpecialLabel.UNLABELLED) for sample in selected}
    return sorted(distinct.values(), key=lambda sample: sample.digest)
