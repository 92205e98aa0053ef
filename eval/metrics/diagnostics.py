"""Diagnostics of predictions beyond accuracy: curves, confusions. Pure functions of plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.core.recall import recall_at, true_ranks

STATUSES = ("corrected", "broken", "right", "wrong", "missed")
"""The ranker against the retriever's top candidate: corrected by the ranker, broken by it, right in both, wrong in
both; or missed, where the true class was not retrieved."""


@dataclass(frozen=True)
class Case:
    """One image in one setting, as seen by the retriever, the untuned and the tuned ranker.

    Attributes:
        key: The image's key.
        truth: Its class name.
        candidates: Class names in retriever order.
        similarities: Their retriever scores, in that order.
        untuned: Class names in the untuned ranker's order.
        tuned: Class names in the tuned ranker's order.
        probabilities: The tuned ranker's, in retriever order; empty where it gives none.
        outcome: Parse outcome of the tuned ranker's reply.
        reply: The reply itself; empty in one-pass modes.
        fused: Class names in the order of the tuned ranker fused with the retriever; empty without fusion.
    """

    key: str
    truth: str
    candidates: tuple[str, ...]
    similarities: tuple[float, ...]
    untuned: tuple[str, ...]
    tuned: tuple[str, ...]
    probabilities: tuple[float, ...]
    outcome: str
    reply: str
    fused: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """One of ``STATUSES``."""
        if self.truth not in self.candidates:
            return "missed"
        before, after = self.candidates[0] == self.truth, self.tuned[0] == self.truth
        return {(False, True): "corrected", (True, False): "broken", (True, True): "right"}.get(
            (before, after), "wrong"
        )

    @property
    def confidence(self) -> float | None:
        """The tuned ranker's probability of its top candidate, or None."""
        if not self.probabilities:
            return None
        return self.probabilities[self.candidates.index(self.tuned[0])]


def recall_within(orders: Sequence[Sequence[str]], truths: Sequence[str], k: int) -> list[float]:
    """Computes recall@1, recall@2, .. recall@k: the share of images whose true class is among the first names.

    Args:
        orders: Class names per image, best first.
        truths: The true name per image.
        k: The largest depth.
    """
    ranks = true_ranks(orders, truths, k)
    return [recall_at(ranks, depth) for depth in range(1, k + 1)]


def top1_by_count_ranked(retriever_hits: np.ndarray, ranker_hits: np.ndarray) -> np.ndarray:
    """Computes top-1 by how many of the most uncertain images go to the ranker, the rest to the retriever.

    Args:
        retriever_hits: Booleans of shape ``[n]``, the image that the retriever is least certain of first.
        ranker_hits: The same for the ranker, in the same order.

    Returns:
        np.ndarray: Shape ``[n + 1]``, from no image ranked to all.
    """
    by_ranker = np.concatenate([[0], np.cumsum(ranker_hits)])
    by_retriever = np.concatenate([np.cumsum(retriever_hits[::-1])[::-1], [0]])
    return (by_ranker + by_retriever) / len(retriever_hits)


def top1_at_shares(by_count: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Reads top-1 at shares of images ranked, 0 to 1, from ``top1_by_count_ranked``."""
    images = len(by_count) - 1
    return [float(by_count[round(share * images)]) for share in shares]


def accuracy_by_share_ranked(cases: Sequence[Case], points: int = 21) -> tuple[list[float], list[float]]:
    """Computes top-1 where only the images that the retriever is least certain of go to the ranker.

    Args:
        cases: Each with at least one candidate. Certainty is the margin between the retriever's two best scores.
        points: Number of shares, evenly spaced from 0 to 1.

    Returns:
        tuple[list[float], list[float]]: Shares ranked and accuracies.
    """
    margins = [c.similarities[0] - c.similarities[1] if len(c.similarities) > 1 else np.inf for c in cases]
    order = np.argsort(margins, kind="stable")
    ranker_hits = np.array([c.tuned[0] == c.truth for c in cases])[order]
    retriever_hits = np.array([c.candidates[0] == c.truth for c in cases])[order]
    shares = np.linspace(0, 1, points).tolist()
    return shares, top1_at_shares(top1_by_count_ranked(retriever_hits, ranker_hits), shares)


def most_confused(cases: Sequence[Case], most: int) -> list[tuple[str, str, int]]:
    """Counts the pairs of true and predicted class that the tuned ranker confuses, where both were candidates.

    Args:
        cases: Of any settings.
        most: Number of pairs to return.

    Returns:
        list: True class, predicted class and count; most frequent first, then by name.
    """
    pairs = Counter((c.truth, c.tuned[0]) for c in cases if c.truth in c.candidates and c.tuned[0] != c.truth)
    return [(*pair, count) for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:most]]
