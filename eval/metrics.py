"""Figures of a ranking, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def hits_at(ranked: Sequence[Sequence[int]], truths: Sequence[int], k: int) -> np.ndarray:
    """Whether the truth is among the first k.

    Args:
        ranked: Labels per image, best first.
        truths: The true label per image.
        k: How many count.

    Returns:
        np.ndarray: Booleans of shape ``[n]``.
    """
    return np.array([truth in list(row)[:k] for row, truth in zip(ranked, truths, strict=True)], bool)


def bootstrap_interval(
    differences: np.ndarray, groups: np.ndarray, resamples: int, seed: int = 0
) -> tuple[float, float, float]:
    """A mean difference with its 95 % percentile interval, by resampling whole groups.

    Images of one class succeed and fail together, so classes are drawn, with all their images;
    drawing single images would make the interval too narrow.

    Args:
        differences: Paired differences per image, shape ``[n]``.
        groups: The class of each image, shape ``[n]``.
        resamples: How many.
        seed: Of the resampling.

    Returns:
        tuple: Mean, lower and upper end.
    """
    _, members = np.unique(groups, return_inverse=True)
    sums = np.bincount(members, weights=differences)
    sizes = np.bincount(members)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)
