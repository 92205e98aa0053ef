"""Ranks of true classes among retrieved ones, and recall at k."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def true_ranks(ranked: Sequence[Sequence[Hashable]], truths: Sequence[Hashable], missing: int) -> list[int]:
    """Returns each query's rank of the true class, from 0.

    Args:
        ranked: Classes per query, best first.
        truths: The true class per query.
        missing: The rank where the true class is not among them.
    """
    return [list(row).index(truth) if truth in row else missing for row, truth in zip(ranked, truths, strict=True)]


def recall_at(ranks: Sequence[int], k: int) -> float:
    """Returns the share of queries, 0 to 1, whose true class has a rank below k."""
    return sum(rank < k for rank in ranks) / len(ranks)
