"""Policies that turn a box's ranking into scores of its classes; the paper does not specify one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from data_prep.core.errors import UserError
from data_prep.core.records import Ranking
from data_prep.settings import SCORED


@dataclass(frozen=True)
class Ranked:
    """A box with its scores and the ranking of its candidates.

    Attributes:
        detector: The detector's score, 0 to 1; 1 for an annotated box.
        retriever: Each candidate's probability among all classes by the retriever, best first.
        ranking: Of the candidates, with probabilities where the mode gives them.
    """

    detector: float
    retriever: tuple[float, ...]
    ranking: Ranking

    @property
    def ranks(self) -> list[int]:
        """Each candidate's rank in the ranker's order, from 0."""
        ranks = [0] * len(self.ranking.order)
        for rank, candidate in enumerate(self.ranking.order):
            ranks[candidate] = rank
        return ranks


def clip_score_permuted(box: Ranked) -> list[float]:
    """Multiplies the detector's score with the retriever's probabilities, permuted into the ranker's order."""
    descending = sorted(box.retriever, reverse=True)
    return [box.detector * descending[rank] for rank in box.ranks]


def ranker_probability(box: Ranked) -> list[float]:
    """Multiplies the detector's score with the ranker's probability."""
    return [box.detector * p for p in box.ranking.probabilities]


def product(box: Ranked) -> list[float]:
    """Multiplies the detector's score with the probabilities of retriever and ranker."""
    return [box.detector * r * p for r, p in zip(box.retriever, box.ranking.probabilities, strict=True)]


def geometric_mean(box: Ranked) -> list[float]:
    """Computes the geometric mean of the detector's score and the ranker's probability."""
    return [math.sqrt(box.detector * p) for p in box.ranking.probabilities]


def reciprocal_rank(box: Ranked) -> list[float]:
    """Divides the detector's score by the candidate's rank, from 1."""
    return [box.detector / (rank + 1) for rank in box.ranks]


def detector_score(box: Ranked) -> list[float]:
    """Gives the detector's score to the ranker's first candidate, and 0 to the others."""
    return [box.detector if rank == 0 else 0.0 for rank in box.ranks]


def retriever(box: Ranked) -> list[float]:
    """Multiplies the detector's score with the retriever's probability: the ranking is not used."""
    return [box.detector * r for r in box.retriever]


POLICIES: dict[str, Callable[[Ranked], list[float]]] = {
    "clip_score_permuted": clip_score_permuted,
    "ranker_probability": ranker_probability,
    "product": product,
    "geometric_mean": geometric_mean,
    "reciprocal_rank": reciprocal_rank,
    "detector_score": detector_score,
    "retriever": retriever,
}
"""Each returns the candidates' scores in the retriever's order, 0 to 1."""

_NEED_PROBABILITIES = ("ranker_probability", "product", "geometric_mean")


def check_policy(policy: str, mode: str) -> None:
    """Refuses a policy that needs probabilities with a ranking mode that gives none.

    Raises:
        UserError: The policy and the mode are incompatible.
    """
    if policy in _NEED_PROBABILITIES and mode not in SCORED:
        others = ", ".join(name for name in POLICIES if name not in _NEED_PROBABILITIES)
        raise UserError(
            f"detection.policy={policy}: ranker.mode={mode} gives no probabilities; rank by {' or '.join(SCORED)}, "
            f"or score by one of {others}"
        )
