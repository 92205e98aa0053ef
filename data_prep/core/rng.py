"""Order-independent random numbers: a function of seed, purpose and key alone, in whatever order they are drawn."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from data_prep.core.records import RankingExample


def rng_for(*parts: object) -> np.random.Generator:
    """Creates a random number generator seeded by the parts alone, such as seed, purpose and key."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def shuffle_candidates(example: RankingExample, seed: int, epoch: int) -> RankingExample:
    """Returns the example with its candidates shuffled by (seed, epoch, key)."""
    order = rng_for(seed, epoch, example.key).permutation(len(example.candidates))
    return replace(example, candidates=tuple(example.candidates[i] for i in order))


def evenly_spaced(count: int, limit: int) -> list[int]:
    """Returns at most ``limit`` indices below ``count``, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(count, limit)).astype(int).tolist())) if limit and count else []
