"""The ranker's probabilities fused with the retriever's similarities, and the gate before the ranker.

Both are fitted on the validation split. Fusion is a product of experts: each is calibrated by its
own temperature, then weighed, and the product has a temperature too. The gate follows
CascadeVLM (arXiv 2405.11301): the ranker is asked only where the retriever is unsure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from data_prep.core.errors import UserError
from data_prep.core.records import Ranking

_NEVER = 2.0
"""A threshold that no uncertainty reaches: those lie in 0..1."""

_ABSENT = -1e9
"""Stands for a candidate that is not there, where rows of unequal length share a table."""


def _log_probabilities(probabilities: Sequence[float]) -> np.ndarray:
    return np.log(np.maximum(probabilities, 1e-30))


def uncertainty(probabilities: np.ndarray, kind: str) -> float:
    """How unsure probabilities are, 0 to 1.

    Args:
        probabilities: Of one image's candidates, shape ``[k]``.
        kind: ``margin``: one minus the difference of the first two. ``entropy``: over its maximum.
    """
    if len(probabilities) == 1:
        return 0.0
    if kind == "margin":
        second, first = np.sort(probabilities)[-2:]
        return float(1 - (first - second))
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum() / np.log(len(probabilities)))


@dataclass(frozen=True)
class Fusion:
    """A fitted fusion with its gate.

    Attributes:
        weight: Of the ranker, 0 to 1; the retriever's is one minus it.
        temperature: Of the product.
        ranker_temperature: Of the ranker's probabilities.
        retriever_temperature: Of the retriever's scores.
        gate: ``margin`` or ``entropy``.
        threshold: The retriever's uncertainty from which on the ranker is asked.
    """

    weight: float
    temperature: float
    ranker_temperature: float
    retriever_temperature: float
    gate: str
    threshold: float = 0.0

    def retrieved(self, scores: Sequence[float]) -> np.ndarray:
        """The retriever's probabilities by its scores, shape ``[k]``."""
        return np.exp(log_softmax(np.array(scores) / self.retriever_temperature))

    def uncertainty(self, scores: Sequence[float]) -> float:
        """How unsure the retriever is, 0 to 1."""
        return uncertainty(self.retrieved(scores), self.gate)

    def asks(self, scores: Sequence[float]) -> bool:
        """Whether the gate lets an image through to the ranker."""
        return self.uncertainty(scores) >= self.threshold

    def fused(self, ranking: Ranking, scores: Sequence[float]) -> Ranking:
        """Fuses a ranking that has probabilities with the retriever's scores of the same candidates."""
        ranker = log_softmax(_log_probabilities(ranking.probabilities) / self.ranker_temperature)
        retriever = log_softmax(np.array(scores) / self.retriever_temperature)
        mixed = (self.weight * ranker + (1 - self.weight) * retriever) / self.temperature
        return _ranking(np.exp(log_softmax(mixed)))

    def unasked(self, scores: Sequence[float]) -> Ranking:
        """The retriever's own ranking, for an image that the gate keeps back."""
        return _ranking(self.retrieved(scores))


def _ranking(probabilities: np.ndarray) -> Ranking:
    rounded = probabilities.round(9)
    order = sorted(range(len(rounded)), key=lambda place: -rounded[place])
    return Ranking(tuple(order), tuple(probabilities.tolist()))


def _table(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of unequal length as ``[n, k]``."""
    table = np.full((len(rows), max(map(len, rows))), _ABSENT)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


def _loss(logits: np.ndarray, truths: np.ndarray) -> float:
    """Mean negative log-likelihood of the truths, given logits ``[n, k]``."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(truths)), truths].mean())


def _temperature(logits: np.ndarray, truths: np.ndarray) -> float:
    """The temperature under which the truths are most likely, 1e-3 to 1e3."""
    fit = minimize_scalar(
        lambda t: _loss(logits / np.exp(t), truths), bounds=(np.log(1e-3), np.log(1e3)), method="bounded"
    )
    return float(np.exp(fit.x))


def fit_fusion(
    rankings: Sequence[Ranking], scores: Sequence[Sequence[float]], truths: Sequence[int | None], gate: str, loss: float
) -> Fusion:
    """Fits temperatures, weight and the gate's threshold on the validation split.

    Args:
        rankings: With probabilities.
        scores: The retriever's, of the same candidates.
        truths: The true candidate's position, or None where it is not among them.
        gate: ``margin`` or ``entropy``.
        loss: Top-1 that the gate may cost.

    Raises:
        UserError: The truth is never among the candidates.
    """
    kept = [number for number, truth in enumerate(truths) if truth is not None]
    if not kept:
        raise UserError("eval.fusion=true: no validation image has its class among the candidates; raise eval.k")
    positions = np.array([truths[number] for number in kept])
    ranker = _table([_log_probabilities(rankings[number].probabilities) for number in kept])
    retriever = _table([np.array(scores[number]) for number in kept])
    own = _temperature(ranker, positions), _temperature(retriever, positions)
    experts = log_softmax(ranker / own[0], axis=1), log_softmax(retriever / own[1], axis=1)
    # In the two slopes the loss is convex: the weight is their ratio, the temperature one over their sum.
    found = minimize(
        lambda slopes: _loss(slopes[0] * experts[0] + slopes[1] * experts[1], positions),
        x0=(0.5, 0.5),
        bounds=((1e-6, 100), (1e-6, 100)),
        method="L-BFGS-B",
    )
    ranker_slope, retriever_slope = found.x
    total = ranker_slope + retriever_slope
    open_gate = Fusion(float(ranker_slope / total), float(1 / total), *own, gate)
    threshold = _threshold(open_gate, rankings, scores, truths, loss)
    return Fusion(open_gate.weight, open_gate.temperature, *own, gate, threshold)


def _hits_by_doubt(fusion: Fusion, rankings, scores, truths) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits of the retriever and of the fused ranker, the most doubtful image first, and the doubts."""
    doubts = np.array([fusion.uncertainty(own) for own in scores])
    order = np.argsort(-doubts, kind="stable")
    alone = np.array([fusion.unasked(own).order[0] == truth for own, truth in zip(scores, truths, strict=True)])
    fused = np.array(
        [fusion.fused(r, own).order[0] == truth for r, own, truth in zip(rankings, scores, truths, strict=True)]
    )
    return alone[order], fused[order], doubts[order]


def _accuracies(alone: np.ndarray, fused: np.ndarray) -> np.ndarray:
    """Top-1 by how many of the most doubtful images are ranked, 0 to all: shape ``[n + 1]``."""
    ranked = np.concatenate([[0], np.cumsum(fused)])
    kept = np.concatenate([np.cumsum(alone[::-1])[::-1], [0]])
    return (ranked + kept) / len(alone)


def _threshold(fusion: Fusion, rankings, scores, truths, loss: float) -> float:
    alone, fused, doubts = _hits_by_doubt(fusion, rankings, scores, truths)
    accuracies = _accuracies(alone, fused)
    fewest = int(np.argmax(accuracies >= accuracies[-1] - loss - 1e-12))
    return float(doubts[fewest - 1]) if fewest else _NEVER


def gate_curve(
    fusion: Fusion, rankings: Sequence[Ranking], scores: Sequence[Sequence[float]], truths: Sequence[int | None]
) -> list[dict]:
    """Top-1 against the share of images that are ranked, the retriever's most doubtful first.

    Returns:
        list[dict]: ``share`` from 0 to 1 in tenths, and ``top1``.
    """
    alone, fused, _ = _hits_by_doubt(fusion, rankings, scores, truths)
    accuracies = _accuracies(alone, fused)
    shares = [tenth / 10 for tenth in range(11)]
    return [{"share": share, "top1": float(accuracies[round(share * len(alone))])} for share in shares]
