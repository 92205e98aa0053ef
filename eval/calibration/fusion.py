"""Fusion of the ranker's probabilities with the retriever's similarities, calibrated, and the gate before the ranker.

All are fitted on the validation split. Fusion is a product of three experts: the ranker, the similarity to a class's
images and the similarity to its name; where an adapter proposes the candidates, its logits are a fourth. A temperature
then makes the probability of the first class the share of images for which it is right (Guo et al. 2017). The gate
follows CascadeVLM (arXiv 2405.11301): the ranker is run only where the retriever is uncertain.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import nan

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from data_prep.core.records import Candidate, Ranking
from eval.metrics.diagnostics import top1_at_shares, top1_by_count_ranked

_UNREACHABLE = 2.0
"""A threshold that no uncertainty reaches: those are in 0..1."""

_PADDING = -1e9
"""Logit of padding, where rows of unequal length share a table."""

_MAX_SLOPE = 1000.0

_EQUAL = 1e-9  # standard deviation below which values are equal except for rounding


def uncertainties(probabilities: np.ndarray, kind: str) -> np.ndarray:
    """Computes the uncertainty of distributions, 0 to 1, shape ``[n]``.

    Args:
        probabilities: Of each image's candidates, shape ``[n, k]``; 0 for padding.
        kind: ``margin``: one minus the difference of the two highest. ``entropy``: the entropy over its maximum.
    """
    if probabilities.shape[1] == 1:
        return np.zeros(len(probabilities))
    if kind == "margin":
        second, first = np.sort(probabilities, axis=1)[:, -2:].T
        return 1 - (first - second)
    logs = np.log(np.maximum(probabilities, 1e-300))
    counts = np.maximum((probabilities > 0).sum(1), 2)
    return -(probabilities * logs).sum(1) / np.log(counts)


def _log_table(rankings: Sequence[Ranking], width: int = 0) -> np.ndarray:
    """Returns the rankings' log-probabilities, padded to at least ``width`` columns, shape ``[n, k]``."""
    rows = [ranking.probabilities for ranking in rankings]
    counts = np.fromiter(map(len, rows), np.int64, len(rows))
    table = np.full((len(rows), max(width, counts.max())), -1.0)
    table[np.arange(table.shape[1]) < counts[:, None]] = np.fromiter(chain.from_iterable(rows), float, counts.sum())
    return np.where(table < 0, _PADDING, np.log(np.maximum(table, 1e-30)))


def _is_candidate(logits: np.ndarray) -> np.ndarray:
    return logits > _PADDING / 2


def stack_similarities(rows: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """Stacks candidates' similarities to images and names, and further columns where there are any, into
    ``[n, k, 2]`` to ``[n, k, 4]``, padded with NaN."""
    table = np.full((len(rows), max(map(len, rows)), len(next(filter(None, rows), [[0, 0]])[0])), nan)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table


def mark_new(similarities: np.ndarray, candidates: Sequence[Sequence[Candidate]], tuned: Collection[str]) -> np.ndarray:
    """Adds to candidates' similarities, as the fourth column, whether a class is new: nothing was tuned on it.

    Args:
        similarities: Shape ``[n, k, 2]``, or ``[n, k, 3]`` with an adapter's scores.
        candidates: Of each query.
        tuned: Names of the classes that were tuned on; empty where it makes no difference.

    Returns:
        np.ndarray: Shape ``[n, k, 4]``, or the similarities as they are without ``tuned``.
    """
    if not tuned:
        return similarities
    marked = np.full((*similarities.shape[:2], 4), nan)
    marked[..., : similarities.shape[2]] = similarities
    for row, of_query in zip(marked, candidates, strict=True):
        row[: len(of_query), 3] = [candidate.name not in tuned for candidate in of_query]
    return marked


def _fill(similarities: np.ndarray) -> np.ndarray:
    """Replaces missing similarities by the lowest of their row and memory, or by 0 where a row has none."""
    if not np.isnan(similarities).any():
        return similarities
    lowest = np.nanmin(np.where(np.isnan(similarities).all(1, keepdims=True), 0.0, similarities), axis=1, keepdims=True)
    return np.where(np.isnan(similarities), lowest, similarities)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(logits, axis=1))


def _rounded(probabilities: np.ndarray) -> np.ndarray:
    """Rounds probabilities before they are compared: smaller differences are ties, which keep the retriever's order."""
    return probabilities.round(9)


def to_rankings(logits: np.ndarray) -> list[Ranking]:
    """Turns logits ``[n, k]`` into rankings with probabilities; ties keep the retriever's order, padding is dropped."""
    probabilities = _probabilities(logits)
    orders = np.argsort(-_rounded(probabilities), axis=1, kind="stable")
    counts = _is_candidate(logits).sum(1)
    rows = zip(orders.tolist(), probabilities.tolist(), counts.tolist(), strict=True)
    return [
        Ranking(tuple(order), tuple(row))
        if count == len(row)
        else Ranking(tuple(i for i in order if i < count), tuple(row[:count]))
        for order, row, count in rows
    ]


@dataclass(frozen=True)
class Fusion:
    """A fitted fusion with its calibration and its gate.

    Attributes:
        ranker: Slope of the ranker's log-probabilities in the product, at least 0.
        image: Slope of the similarities to the classes' images, at least 0.
        name: Slope of the similarities to the classes' names, at least 0.
        temperature: Divides the product's logits; it calibrates the fused probabilities.
        ranker_temperature: Calibrates the ranker's own probabilities.
        retriever_image: Slope of the similarities to images in the retriever's own distribution.
        retriever_name: Slope of the similarities to names in the retriever's own distribution.
        gate: Measure of the retriever's uncertainty, ``margin`` or ``entropy``.
        threshold: The ranker is run where the retriever's uncertainty is at least this.
        adapter: Slope of the adapter's logits in the product, at least 0; 0 where none proposed the candidates.
        retriever_adapter: Slope of the adapter's logits in the retriever's own distribution.
        new_class: What the product adds to a class that nothing was tuned on, at least 0, as models favour those that
            they were tuned on (calibrated stacking, arXiv 1605.04253); 0 where all classes of the validation images
            were tuned on, or none.
        retriever_new_class: The same in the retriever's own distribution.
    """

    ranker: float
    image: float
    name: float
    temperature: float
    ranker_temperature: float
    retriever_image: float
    retriever_name: float
    gate: str
    threshold: float = 0.0
    adapter: float = 0.0
    retriever_adapter: float = 0.0
    new_class: float = 0.0
    retriever_new_class: float = 0.0

    def retriever_logits(self, similarities: np.ndarray) -> np.ndarray:
        """Computes the retriever's logits, shape ``[n, k]``.

        Args:
            similarities: To each candidate's images and to its name, shape ``[n, k, 2]``; the adapter's logits as a
                third column where one proposed the candidates; and as a fourth, from ``mark_new``, whether a class is
                new. NaN where there are none, and for padding all.
        """
        slopes = np.array([self.retriever_image, self.retriever_name, self.retriever_adapter, self.retriever_new_class])
        logits = _fill(similarities) @ slopes[: similarities.shape[2]]
        return np.where(np.isnan(similarities).all(2), _PADDING, logits)

    def uncertainties(self, similarities: np.ndarray) -> np.ndarray:
        """Computes the retriever's uncertainty per image, 0 to 1, shape ``[n]``."""
        return uncertainties(_probabilities(self.retriever_logits(similarities)), self.gate)

    def needs_ranker(self, similarities: np.ndarray) -> np.ndarray:
        """Whether the gate passes each image on to the ranker, shape ``[n]``."""
        return self.uncertainties(similarities) >= self.threshold

    def retriever_rankings(self, similarities: np.ndarray) -> list[Ranking]:
        """Returns the retriever's rankings, for images that the gate does not pass on."""
        return to_rankings(self.retriever_logits(similarities))

    def first(self, rankings: Sequence[Ranking], similarities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the positions of the first candidates of ``retriever_rankings`` and of ``fuse``, each ``[n]``."""
        fused = self._product(_log_table(rankings, similarities.shape[1]), similarities)
        logits = self.retriever_logits(similarities), fused
        return tuple(_rounded(_probabilities(table)).argmax(1) for table in logits)

    def fuse(self, rankings: Sequence[Ranking], similarities: np.ndarray) -> list[Ranking]:
        """Fuses rankings that have probabilities with similarities as in ``retriever_logits``."""
        return to_rankings(self._product(_log_table(rankings, similarities.shape[1]), similarities))

    def calibrate(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        """Calibrates the ranker's own probabilities; the order stays."""
        logits = _log_table(rankings)
        return to_rankings(np.where(_is_candidate(logits), logits / self.ranker_temperature, _PADDING))

    def _product(self, ranker: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        """Computes the product's logits from the ranker's log-probabilities, which have the padding."""
        slopes = np.array([self.image, self.name, self.adapter, self.new_class])[: similarities.shape[2]]
        product = self.ranker * ranker + _fill(similarities) @ slopes
        return np.where(_is_candidate(ranker), product / self.temperature, _PADDING)


def _fit_slopes(experts: Sequence[np.ndarray], truths: np.ndarray, is_candidate: np.ndarray) -> np.ndarray:
    """Fits the slopes, at least 0, under which the product of experts gives the true candidates the most likelihood.

    The loss is convex. Each expert is first scaled to a unit standard deviation, so that one step size suits all; one
    that is the same for all candidates has a slope of 0.
    """
    spreads = np.array([np.std(expert[is_candidate]) for expert in experts])
    scales = np.where(spreads > _EQUAL, spreads, np.inf)
    rows = np.arange(len(truths))
    # A candidate's logit minus the true candidate's, by expert: the likelihood depends on nothing else.
    margins = [np.where(is_candidate, expert - expert[rows, truths][:, None], 0.0) for expert in experts]
    scaled = np.stack(margins).reshape(len(experts), -1) / scales[:, None]
    padding = np.where(is_candidate, 0.0, _PADDING)

    def loss(slopes: np.ndarray) -> tuple[float, np.ndarray]:
        logits = (slopes @ scaled).reshape(is_candidate.shape) + padding
        highest = logits.max(1, keepdims=True)
        powers = np.exp(logits - highest)
        totals = powers.sum(1, keepdims=True)
        gradient = scaled @ (powers / totals).ravel()
        return float((np.log(totals) + highest).mean()), gradient / len(truths)

    fit = minimize(loss, np.ones(len(experts)), jac=True, bounds=[(1e-6, _MAX_SLOPE)] * len(experts), method="L-BFGS-B")
    return fit.x / scales


def fit_temperature(logits: np.ndarray, correct: np.ndarray) -> float:
    """Fits the temperature under which the highest probability predicts best whether the first candidate is right.

    Images whose class is not among the candidates count as wrong, so that confidence covers the retriever's misses.

    Args:
        logits: Shape ``[n, k]``.
        correct: Whether the highest logit is the true class, shape ``[n]``.
    """

    margins = logits - logits.max(1, keepdims=True)

    def loss(log_temperature: float) -> float:
        confidence = (1 / np.exp(margins / np.exp(log_temperature)).sum(1)).clip(1e-9, 1 - 1e-9)
        return float(-np.where(correct, np.log(confidence), np.log(1 - confidence)).mean())

    fit = minimize_scalar(loss, bounds=(np.log(1e-3), np.log(1e3)), method="bounded")
    return float(np.exp(fit.x))


def _positions(truths: Sequence[int | None]) -> np.ndarray:
    """Returns the true candidates' positions, shape ``[n]``; -1 for None."""
    return np.array([-1 if truth is None else truth for truth in truths])


def fit_fusion(
    rankings: Sequence[Ranking], similarities: np.ndarray, truths: Sequence[int | None], gate: str, loss: float
) -> Fusion | None:
    """Fits slopes, temperatures and the gate's threshold on the validation split.

    Args:
        rankings: With probabilities.
        similarities: The retriever's, of the same candidates, as in ``Fusion.retriever_logits``.
        truths: The true candidate's position, or None where the true class is not among the candidates.
        gate: ``margin`` or ``entropy``.
        loss: Top-1 that the gate may cost.

    Returns:
        Fusion | None: None where the true class is never among the candidates.
    """
    positions = _positions(truths)
    hits = positions >= 0
    if not hits.any():
        return None
    ranker, filled = _log_table(rankings, similarities.shape[1]), _fill(similarities)
    experts, is_candidate = (ranker, *np.moveaxis(filled, 2, 0)), _is_candidate(ranker)
    with_truth = positions[hits], is_candidate[hits]
    slopes = _fit_slopes([expert[hits] for expert in experts], *with_truth)
    retriever = _fit_slopes([expert[hits] for expert in experts[1:]], *with_truth)
    fusion = _make_fusion(slopes.tolist(), retriever.tolist(), gate)
    logits = fusion._product(ranker, similarities), ranker, fusion.retriever_logits(similarities)
    temperatures = [fit_temperature(table, table.argmax(1) == positions) for table in logits]
    fusion = replace(
        fusion,
        temperature=temperatures[0],
        ranker_temperature=temperatures[1],
        retriever_image=fusion.retriever_image / temperatures[2],
        retriever_name=fusion.retriever_name / temperatures[2],
        retriever_adapter=fusion.retriever_adapter / temperatures[2],
        retriever_new_class=fusion.retriever_new_class / temperatures[2],
    )
    return replace(fusion, threshold=_fit_threshold(fusion, rankings, similarities, truths, loss))


def _make_fusion(slopes: Sequence[float], retriever: Sequence[float], gate: str) -> Fusion:
    """Makes a fusion without temperatures from the slopes of the product and of the retriever's own distribution."""
    adapter, new_class = (*slopes[3:], 0.0, 0.0)[:2]
    retriever_adapter, retriever_new_class = (*retriever[2:], 0.0, 0.0)[:2]
    adapters = {"adapter": adapter, "retriever_adapter": retriever_adapter}
    new_classes = {"new_class": new_class, "retriever_new_class": retriever_new_class}
    return Fusion(*slopes[:3], 1.0, 1.0, *retriever[:2], gate, **adapters, **new_classes)


def _gated_accuracy(fusion: Fusion, rankings, similarities, truths) -> tuple[np.ndarray, np.ndarray]:
    """Computes top-1 by how many of the most uncertain images are ranked, shape ``[n + 1]``, and their uncertainties.

    The uncertainties are sorted, highest first, shape ``[n]``.
    """
    uncertain = fusion.uncertainties(similarities)
    order = np.argsort(-uncertain, kind="stable")
    positions = _positions(truths)
    retrieved, fused = (first == positions for first in fusion.first(rankings, similarities))
    return top1_by_count_ranked(retrieved[order], fused[order]), uncertain[order]


def _fit_threshold(fusion: Fusion, rankings, similarities, truths, loss: float) -> float:
    """Finds the highest threshold under which top-1 is at most ``loss`` below that of ranking all images."""
    accuracies, uncertain = _gated_accuracy(fusion, rankings, similarities, truths)
    fewest = int(np.argmax(accuracies >= accuracies[-1] - loss - 1e-12))
    return float(uncertain[fewest - 1]) if fewest else _UNREACHABLE


def gate_curve(
    fusion: Fusion, rankings: Sequence[Ranking], similarities: np.ndarray, truths: Sequence[int | None]
) -> list[dict]:
    """Computes top-1 against the share of images that are ranked, the most uncertain ones first.

    Returns:
        list[dict]: ``share`` from 0 to 1 in tenths, and ``top1``.
    """
    accuracies, _ = _gated_accuracy(fusion, rankings, similarities, truths)
    shares = [tenth / 10 for tenth in range(11)]
    return [{"share": s, "top1": top1} for s, top1 in zip(shares, top1_at_shares(accuracies, shares), strict=True)]
