"""Lots that are drawn by what they are for: a function of seed, purpose and key, in whatever order they are asked."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from data_prep.core.records import RankingExample


def rng_for(*parts: object) -> np.random.Generator:
    """A generator of random numbers that the parts alone decide."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def shuffle_candidates(example: RankingExample, seed: int, epoch: int) -> RankingExample:
    """The example with its candidates in an order that (seed, epoch, key) decides."""
    order = rng_for(seed, epoch, example.key).permutation(len(example.candidates))
    return replace(example, candidates=tuple(example.candidates[i] for i in order))


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` numbers below ``count``, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).astype(int).tolist())) if most and count else []
