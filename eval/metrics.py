"""Figures of a ranking, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata


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


def staged(first: Sequence[bool], right: Sequence[bool], found: Sequence[bool], outcomes: Mapping[str, int]) -> dict:
    """What the ranker makes of what the retriever proposes.

    Args:
        first: Per image, whether the retriever's first candidate is the truth.
        right: Whether the ranker's is.
        found: Whether the truth is among the candidates.
        outcomes: Images by outcome of reading the reply.

    Returns:
        dict: ``top1_given_hit``, top-1 where the truth is among the candidates (None where it never
        is); ``corrected``, images whose first candidate is wrong by the retriever and right by the
        ranker, and ``broken``, the other way round; and ``outcomes``.
    """
    first, right, found = (np.array(column, bool) for column in (first, right, found))
    return {
        "top1_given_hit": float(right[found].mean()) if found.any() else None,
        "corrected": int((right & ~first).sum()),
        "broken": int((first & ~right).sum()),
        "outcomes": dict(sorted(outcomes.items())),
    }


def by_place(truths: Sequence[int], chosen: Sequence[int], count: int) -> list[dict]:
    """Top-1 by the place at which the truth stood; flat where places do not matter.

    Args:
        truths: The truth's place per image, from 0.
        chosen: The place of the ranker's first candidate per image.
        count: Places.

    Returns:
        list[dict]: Per ``place`` from 1: ``n``, the images whose truth stood there, ``top1`` on them (None
        without any), and ``chosen``, the share of all images whose first candidate stood there.
    """
    truths, chosen = np.array(truths, int), np.array(chosen, int)
    rows = []
    for place in range(count):
        here = truths == place
        rows.append(
            {
                "place": place + 1,
                "n": int(here.sum()),
                "top1": float((chosen[here] == place).mean()) if here.any() else None,
                "chosen": float((chosen == place).mean()) if len(chosen) else None,
            }
        )
    return rows


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The chance that a positive scores above a negative; ties count half.

    Args:
        positive: At least one score.
        negative: At least one score.
    """
    ranks = rankdata([*positive, *negative])[: len(positive)]
    pairs = len(positive) * len(negative)
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / pairs)


def resampled_means(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Means of bootstrap resamples, by drawing whole groups, and seeds where there are several.

    Images of one class succeed and fail together, so classes are drawn, with all their images;
    drawing single images would make the spread too narrow. Another memory would have been drawn by
    another seed, so seeds are drawn too, for all classes of a resample alike.

    Args:
        values: Per seed and image, shape ``[s, n]``.
        groups: The class of each image, shape ``[n]``.
        resamples: How many.
        seed: Of the resampling.

    Returns:
        np.ndarray: Shape ``[resamples]``.
    """
    _, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members)
    sums = np.stack([np.bincount(members, weights=row) for row in values])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(sizes), (resamples, len(sizes)))
    totals = sizes[drawn].sum(1)
    if len(sums) == 1:
        return sums[0][drawn].sum(1) / totals
    times = rng.multinomial(len(sums), [1 / len(sums)] * len(sums), resamples)
    by_seed = np.stack([row[drawn].sum(1) for row in sums], 1)
    return (by_seed * times).sum(1) / (len(sums) * totals)


def interval(means: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of resampled means."""
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_interval(
    differences: np.ndarray, groups: np.ndarray, resamples: int, seed: int = 0
) -> tuple[float, float, float]:
    """A mean difference with its 95 % percentile interval, as ``resampled_means`` draws.

    Args:
        differences: Paired differences per image, shape ``[n]``; or per seed and image, ``[s, n]``.
        groups: The class of each image, shape ``[n]``.
        resamples: How many.
        seed: Of the resampling.

    Returns:
        tuple: Mean, lower and upper end.
    """
    means = resampled_means(np.atleast_2d(differences), groups, resamples, seed)
    return float(differences.mean()), *interval(means)


def percent(shares: Sequence[float]) -> str:
    """The mean of shares in per cent, with the standard deviation where there are several."""
    spread = f" ± {100 * np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
    return f"{100 * np.mean(shares):.1f}{spread}"
