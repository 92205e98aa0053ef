"""Fusion of the ranker's probabilities with the retriever's similarities, and the gate before the ranker.

Both are fitted on the validation split. Fusion is a product of experts: each expert is calibrated by its own
temperature, then weighted, and the product has a temperature too. The gate follows CascadeVLM (arXiv 2405.11301): the
ranker is run only where the retriever is uncertain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from data_prep.core.errors import UserError
from data_prep.core.records import Ranking
from eval.metrics.diagnostics import top1_at_shares, top1_by_count_ranked

_UNREACHABLE = 2.0
"""A threshold that no uncertainty reaches: those are in 0..1."""

_PADDING = -1e9
"""Logit of padding, where rows of unequal length share a table."""


def _log_probabilities(probabilities: Sequence[float]) -> np.ndarray:
    return np.log(np.maximum(probabilities, 1e-30))


def uncertainty(probabilities: np.ndarray, kind: str) -> float:
    """Computes the uncertainty of a distribution, 0 to 1.

    Args:
        probabilities: Of one image's candidates, shape ``[k]``.
        kind: ``margin``: one minus the difference of the two highest. ``entropy``: the entropy over its maximum.
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
        weight: Of the ranker, 0 to 1; the retriever has the rest.
        temperature: Of the product.
        ranker_temperature: Of the ranker's probabilities.
        retriever_temperature: Of the retriever's scores.
        gate: Measure of uncertainty, ``margin`` or ``entropy``.
        threshold: The ranker is run where the retriever's uncertainty is at least this.
    """

    weight: float
    temperature: float
    ranker_temperature: float
    retriever_temperature: float
    gate: str
    threshold: float = 0.0

    def retriever_probabilities(self, scores: Sequence[float]) -> np.ndarray:
        """Turns the retriever's scores into probabilities, shape ``[k]``."""
        return np.exp(log_softmax(np.array(scores) / self.retriever_temperature))

    def uncertainty(self, scores: Sequence[float]) -> float:
        """Computes the retriever's uncertainty, 0 to 1."""
        return uncertainty(self.retriever_probabilities(scores), self.gate)

    def needs_ranker(self, scores: Sequence[float]) -> bool:
        """Whether the gate passes an image on to the ranker."""
        return self.uncertainty(scores) >= self.threshold

    def fuse(self, ranking: Ranking, scores: Sequence[float]) -> Ranking:
        """Fuses a ranking that has probabilities with the retriever's scores of the same candidates."""
        ranker = log_softmax(_log_probabilities(ranking.probabilities) / self.ranker_temperature)
        retriever = log_softmax(np.array(scores) / self.retriever_temperature)
        mixture = (self.weight * ranker + (1 - self.weight) * retriever) / self.temperature
        return _make_ranking(np.exp(log_softmax(mixture)))

    def retriever_ranking(self, scores: Sequence[float]) -> Ranking:
        """Returns the retriever's ranking, for an image that the gate does not pass on."""
        return _make_ranking(self.retriever_probabilities(scores))


def _make_ranking(probabilities: np.ndarray) -> Ranking:
    rounded = probabilities.round(9)
    order = sorted(range(len(rounded)), key=lambda position: -rounded[position])
    return Ranking(tuple(order), tuple(probabilities.tolist()))


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Pads rows of unequal length to ``[n, k]``."""
    table = np.full((len(rows), max(map(len, rows))), _PADDING)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table


def _nll(logits: np.ndarray, truths: np.ndarray) -> float:
    """Computes the mean negative log-likelihood of the true candidates, given logits ``[n, k]``."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(truths)), truths].mean())


def _fit_temperature(logits: np.ndarray, truths: np.ndarray) -> float:
    """Fits the temperature with the highest likelihood of the true candidates, 1e-3 to 1e3."""
    fit = minimize_scalar(
        lambda t: _nll(logits / np.exp(t), truths), bounds=(np.log(1e-3), np.log(1e3)), method="bounded"
    )
    return float(np.exp(fit.x))


def fit_fusion(
    rankings: Sequence[Ranking], scores: Sequence[Sequence[float]], truths: Sequence[int | None], gate: str, loss: float
) -> Fusion:
    """Fits temperatures, weight and the gate's threshold on the validation split.

    Args:
        rankings: With probabilities.
        scores: The retriever's, of the same candidates.
        truths: The true candidate's position, or None where the true class is not among the candidates.
        gate: ``margin`` or ``entropy``.
        loss: Top-1 that the gate may cost.

    Raises:
        UserError: The true class is never among the candidates.
    """
    with_truth = [index for index, truth in enumerate(truths) if truth is not None]
    if not with_truth:
        raise UserError("eval.fusion=true: no validation image has its class among the candidates; raise eval.k")
    positions = np.array([truths[index] for index in with_truth])
    ranker = _padded([_log_probabilities(rankings[index].probabilities) for index in with_truth])
    retriever = _padded([np.array(scores[index]) for index in with_truth])
    temperatures = _fit_temperature(ranker, positions), _fit_temperature(retriever, positions)
    experts = log_softmax(ranker / temperatures[0], axis=1), log_softmax(retriever / temperatures[1], axis=1)
    # The loss is convex in the two slopes. The weight is the ranker's share of their sum, the temperature its inverse.
    fit = minimize(
        lambda slopes: _nll(slopes[0] * experts[0] + slopes[1] * experts[1], positions),
        x0=(0.5, 0.5),
        bounds=((1e-6, 100), (1e-6, 100)),
        method="L-BFGS-B",
    )
    ranker_slope, retriever_slope = fit.x
    total = ranker_slope + retriever_slope
    open_gate = Fusion(float(ranker_slope / total), float(1 / total), *temperatures, gate)
    threshold = _fit_threshold(open_gate, rankings, scores, truths, loss)
    return Fusion(open_gate.weight, open_gate.temperature, *temperatures, gate, threshold)


def _gated_accuracy(fusion: Fusion, rankings, scores, truths) -> tuple[np.ndarray, np.ndarray]:
    """Computes top-1 by how many of the most uncertain images are ranked, shape ``[n + 1]``, and their uncertainties.

    The uncertainties are sorted, highest first, shape ``[n]``.
    """
    uncertainties = np.array([fusion.uncertainty(row) for row in scores])
    order = np.argsort(-uncertainties, kind="stable")
    retriever_hits = np.array(
        [fusion.retriever_ranking(row).order[0] == t for row, t in zip(scores, truths, strict=True)]
    )
    fused_hits = np.array(
        [fusion.fuse(r, row).order[0] == t for r, row, t in zip(rankings, scores, truths, strict=True)]
    )
    return top1_by_count_ranked(retriever_hits[order], fused_hits[order]), uncertainties[order]


def _fit_threshold(fusion: Fusion, rankings, scores, truths, loss: float) -> float:
    """Finds the highest threshold under which top-1 is at most ``loss`` below that of ranking all images."""
    accuracies, uncertainties = _gated_accuracy(fusion, rankings, scores, truths)
    fewest = int(np.argmax(accuracies >= accuracies[-1] - loss - 1e-12))
    return float(uncertainties[fewest - 1]) if fewest else _UNREACHABLE


def gate_curve(
    fusion: Fusion, rankings: Sequence[Ranking], scores: Sequence[Sequence[float]], truths: Sequence[int | None]
) -> list[dict]:
    """Computes top-1 against the share of images that are ranked, the most uncertain ones first.

    Returns:
        list[dict]: ``share`` from 0 to 1 in tenths, and ``top1``.
    """
    accuracies, _ = _gated_accuracy(fusion, rankings, scores, truths)
    shares = [tenth / 10 for tenth in range(11)]
    return [{"share": s, "top1": top1} for s, top1 in zip(shares, top1_at_shares(accuracies, shares), strict=True)]
