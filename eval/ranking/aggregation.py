"""Permutation self-consistency (arXiv 2310.07712): aggregates rankings of the same candidates shown in several orders.

Averaging over the orders removes the position bias of a single prompt. There are three aggregation methods.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.core.records import Ranking


def aggregate_rankings(rankings: Sequence[Ranking], method: str) -> Ranking:
    """Aggregates rankings of the same candidates.

    Args:
        rankings: At least one; a single one is returned unchanged.
        method: ``mean``, ``borda`` or ``kemeny``.

    Returns:
        Ranking: Ties keep the retriever's order. Probabilities are averaged where the rankings have them; the outcome
        is the worst one, and the replies are joined, one per line.
    """
    if len(rankings) == 1:
        return rankings[0]
    order = {"mean": _mean_order, "borda": _borda_order, "kemeny": _kemeny_order}[method](rankings)
    worst = max((r.outcome for r in rankings), key=("ok", "repaired", "unreadable").index)
    probabilities = tuple(np.mean([r.probabilities for r in rankings], axis=0).tolist())
    return Ranking(order, probabilities, worst, "\n".join(r.reply for r in rankings if r.reply))


def _sort_by(values: Sequence[float]) -> tuple[int, ...]:
    """Returns the indices sorted by value, highest first; a stable sort, so ties keep their order."""
    return tuple(sorted(range(len(values)), key=lambda index: -values[index]))


def _mean_order(rankings: Sequence[Ranking]) -> tuple[int, ...]:
    # Rounded, so that sums of the same numbers in another order are ties.
    return _sort_by(np.mean([ranking.probabilities for ranking in rankings], axis=0).round(9).tolist())


def _borda_order(rankings: Sequence[Ranking]) -> tuple[int, ...]:
    points = np.zeros(len(rankings[0].order), int)
    for ranking in rankings:
        points[list(ranking.order)] += np.arange(len(ranking.order))[::-1]
    return _sort_by(points.tolist())


def _kemeny_order(rankings: Sequence[Ranking]) -> tuple[int, ...]:
    """Computes the exact Kemeny order (fewest pairwise disagreements) by dynamic programming over subsets.

    Takes k · 2^k steps. Among equally good orders the lexicographically first one (in retriever order) is returned.
    """
    k = len(rankings[0].order)
    num_before = np.zeros((k, k), int)  # [i][j]: how many rankings put i before j
    for ranking in rankings:
        rank = np.argsort(ranking.order)
        num_before += rank[:, None] < rank[None, :]
    cost_before = num_before.T.tolist()  # [i][j]: the cost of putting i before j
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for subset in range(1, 2**k):  # a bit mask; its best order is the tail of a ranking
        members = [i for i in range(k) if subset >> i & 1]
        options = []
        for first in members:
            cost, tail = best[subset & ~(1 << first)]
            cost += sum(cost_before[first][other] for other in members if other != first)
            options.append((cost, (first, *tail)))
        best.append(min(options))
    return best[-1][1]
