"""What predictions tell beyond an accuracy: curves, calibration, confusions. Pure functions of plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STATUSES = ("corrected", "broken", "right", "wrong", "missed")
"""Against the retriever's first: put right, made wrong, right in both, wrong in both; or the truth not retrieved."""


@dataclass(frozen=True)
class Case:
    """One image in one setting, as the retriever, the untuned and the tuned ranker see it.

    Attributes:
        key: The image's key.
        truth: Its class name.
        candidates: Class names in retriever order.
        similarities: The retriever's scores of them, in that order.
        untuned: Class names in the untuned ranker's order.
        tuned: Class names in the tuned ranker's order.
        probabilities: The tuned ranker's, in retriever order; empty where it gives none.
        outcome: How the tuned ranker's reply was read.
        reply: The reply itself; empty in one-pass modes.
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
        """The probability of the tuned ranker's first, or None."""
        if not self.probabilities:
            return None
        return self.probabilities[self.candidates.index(self.tuned[0])]


def recall_within(orders: Sequence[Sequence[str]], truths: Sequence[str], k: int) -> list[float]:
    """Share of images whose truth is among the first 1, 2, .. k names.

    Args:
        orders: Class names per image, best first.
        truths: The true name per image.
        k: How far.
    """
    places = [list(order).index(truth) if truth in order else k for order, truth in zip(orders, truths, strict=True)]
    return [float(np.mean([place < depth for place in places])) for depth in range(1, k + 1)]


def accuracy_by_share_ranked(cases: Sequence[Case], points: int = 21) -> tuple[list[float], list[float]]:
    """Top-1 where only the images that the retriever is least sure of go to the ranker.

    Args:
        cases: Each with at least one candidate. A sure retriever has a wide margin between its first two.
        points: Shares to compute, evenly from 0 to 1.

    Returns:
        tuple[list[float], list[float]]: Shares ranked and accuracies.
    """
    margins = [c.similarities[0] - c.similarities[1] if len(c.similarities) > 1 else np.inf for c in cases]
    order = np.argsort(margins, kind="stable")
    ranked = np.array([c.tuned[0] == c.truth for c in cases])[order]
    retrieved = np.array([c.candidates[0] == c.truth for c in cases])[order]
    shares = np.linspace(0, 1, points)
    cuts = np.round(shares * len(cases)).astype(int)
    return shares.tolist(), [float((ranked[:cut].sum() + retrieved[cut:].sum()) / len(cases)) for cut in cuts]


def calibration(
    confidences: Sequence[float], right: Sequence[bool], bins: int = 10
) -> tuple[list[tuple[float, float, int]], float]:
    """A reliability diagram's points, and the expected calibration error (Guo et al. 2017, arXiv 1706.04599).

    Args:
        confidences: Probability of the first candidate, in 0..1.
        right: Whether it was the truth.
        bins: Bins of equal width; empty ones are left out.

    Returns:
        tuple: Mean confidence, accuracy and count per bin; and the error, 0 to 1.
    """
    confidences, right = np.array(confidences, float), np.array(right, bool)
    places = np.minimum((confidences * bins).astype(int), bins - 1)
    points = [
        (float(confidences[places == b].mean()), float(right[places == b].mean()), int((places == b).sum()))
        for b in np.unique(places)
    ]
    return points, float(sum(n * abs(c - a) for c, a, n in points) / max(len(right), 1))


def most_confused(cases: Sequence[Case], most: int) -> list[tuple[str, str, int]]:
    """Pairs of true and chosen class that the tuned ranker takes for each other, where it had both.

    Returns:
        list: Truth, what was chosen instead, and how often; most frequent first, then by name.
    """
    pairs = Counter((c.truth, c.tuned[0]) for c in cases if c.truth in c.candidates and c.tuned[0] != c.truth)
    return [(*pair, count) for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:most]]
