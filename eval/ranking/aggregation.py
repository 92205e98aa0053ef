"""One ranking from several: the candidates shown in several orders, so that no place is favoured.

Permutation self-consistency (arXiv 2310.07712) with three ways to aggregate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.core.records import Ranking


def aggregate_rankings(rankings: Sequence[Ranking], how: str) -> Ranking:
    """Aggregates rankings of the same candidates.

    Args:
        rankings: At least one; a single one comes back as it is.
        how: ``mean``, ``borda`` or ``kemeny``.

    Returns:
        Ranking: Ties keep the retriever's order. Probabilities are the mean where the rankings have
        them; the outcome is the worst, and the replies stand one a line.
    """
    if len(rankings) == 1:
        return rankings[0]
    order = {"mean": _mean, "borda": _borda, "kemeny": _kemeny}[how](rankings)
    worst = max((r.outcome for r in rankings), key=("ok", "repaired", "unreadable").index)
    probabilities = tuple(np.mean([r.probabilities for r in rankings], axis=0).tolist())
    return Ranking(order, probabilities, worst, "\n".join(r.reply for r in rankings if r.reply))


def _by(values: Sequence[float]) -> tuple[int, ...]:
    """Places by value, highest first; stable, so that ties keep their order."""
    return tuple(sorted(range(len(values)), key=lambda place: -values[place]))


def _mean(rankings: Sequence[Ranking]) -> tuple[int, ...]:
    # Rounded, so that sums of the same numbers in another order tie.
    return _by(np.mean([ranking.probabilities for ranking in rankings], axis=0).round(9).tolist())


def _borda(rankings: Sequence[Ranking]) -> tuple[int, ...]:
    points = np.zeros(len(rankings[0].order), int)
    for ranking in rankings:
        points[list(ranking.order)] += np.arange(len(ranking.order))[::-1]
    return _by(points.tolist())


def _kemeny(rankings: Sequence[Ranking]) -> tuple[int, ...]:
    """The order that disagrees with the fewest pairs, exactly: the best order of every set of candidates.

    Takes 2^k steps of k. Among equals the first in retriever order wins at each place from the front.
    """
    k = len(rankings[0].order)
    before = np.zeros((k, k), int)  # how many rankings put i before j
    for ranking in rankings:
        place = np.argsort(ranking.order)
        before += place[:, None] < place[None, :]
    against = before.T.tolist()  # [i][j]: the cost of putting i before j
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for chosen in range(1, 2**k):  # the best order of the chosen, as the tail of a ranking
        own = [i for i in range(k) if chosen >> i & 1]
        options = []
        for first in own:
            cost, tail = best[chosen & ~(1 << first)]
            options.append((cost + sum(against[first][other] for other in own if other != first), (first, *tail)))
        best.append(min(options))
    return best[-1][1]
