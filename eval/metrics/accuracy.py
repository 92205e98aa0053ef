"""Ranking metrics of one evaluation."""

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


def staged_accuracy(
    first: Sequence[bool], right: Sequence[bool], found: Sequence[bool], outcomes: Mapping[str, int]
) -> dict:
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


def top1_by_position(truths: Sequence[int], chosen: Sequence[int], count: int) -> list[dict]:
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


def percent(shares: Sequence[float]) -> str:
    """The mean of shares in per cent, with the standard deviation where there are several."""
    spread = f" ± {100 * np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
    return f"{100 * np.mean(shares):.1f}{spread}"
