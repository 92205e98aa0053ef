"""Open-set recognition: detects images of classes that are not in the memory by a threshold on a signal.

Some classes are held out of a memory, so that their images are unknown to it. Signals are compared by AUROC; the signal
and its threshold are chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, Ranking
from eval.metrics.accuracy import auroc


@dataclass(frozen=True)
class Refusal:
    """Rule for the answer "none of these".

    Attributes:
        signal: ``retriever``, the first candidate's similarity; ``probability``, the ranker's highest; or ``score``,
            the ranker's highest before the softmax.
        threshold: An image whose signal is below it is of no known class.
    """

    signal: str
    threshold: float

    def refuses(self, signals: Mapping[str, float]) -> bool | None:
        """Whether an image is of none of the classes; None where the signal is missing."""
        return signals[self.signal] < self.threshold if self.signal in signals else None


def open_set_signals(candidates: Sequence[Candidate], ranking: Ranking | None, score: float) -> dict[str, float]:
    """Collects the signals that may separate known from unknown classes, higher for known.

    Args:
        candidates: In retriever order.
        ranking: The ranker's; without one, or without its probabilities, its signals are left out.
        score: The ranker's highest, a log-likelihood, a logit or log-odds.
    """
    signals = {"retriever": candidates[0].score}
    if ranking and ranking.probabilities:
        signals |= {"probability": max(ranking.probabilities), "score": score}
    return signals


def _split(signals: Sequence[Mapping[str, float]], known: Sequence[bool], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Splits a signal's values into those of known and of unknown images."""
    values, is_known = np.array([by_name[name] for by_name in signals]), np.array(known, bool)
    if is_known.all() or not is_known.any():
        raise UserError(
            "eval.open_set_fraction: needs images of classes held out and of others; raise or lower the share"
        )
    return values[is_known], values[~is_known]


def aurocs(signals: Sequence[Mapping[str, float]], known: Sequence[bool]) -> dict[str, float]:
    """Computes the AUROC of each signal for known against unknown images."""
    return {name: auroc(*_split(signals, known, name)) for name in signals[0]}


def fit_refusal(signals: Sequence[Mapping[str, float]], known: Sequence[bool]) -> Refusal:
    """Chooses the signal with the highest AUROC, and its threshold with the best balanced accuracy.

    Args:
        signals: Per validation image.
        known: Whether its class is in the memory.
    """
    auroc_of = aurocs(signals, known)
    name = max(auroc_of, key=auroc_of.__getitem__)
    known_values, unknown_values = _split(signals, known, name)
    values = np.unique([*known_values, *unknown_values])
    thresholds = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
    accepted = (known_values[:, None] >= thresholds).mean(0)
    refused = (unknown_values[:, None] < thresholds).mean(0)
    return Refusal(name, float(thresholds[np.argmax(accepted + refused)]))


def refusal_metrics(refusal: Refusal, signals: Sequence[Mapping[str, float]], known: Sequence[bool]) -> dict:
    """Computes AUROC by signal, and how much the threshold accepts and refuses.

    Returns:
        dict: ``known`` and ``unknown``, numbers of images; ``auroc`` by signal; ``signal`` and ``threshold``;
        ``known_accepted`` and ``unknown_refused``, shares.
    """
    refused = np.array([refusal.refuses(by_name) for by_name in signals])
    is_known = np.array(known, bool)
    return {
        "known": int(is_known.sum()),
        "unknown": int((~is_known).sum()),
        "auroc": aurocs(signals, known),
        "signal": refusal.signal,
        "threshold": refusal.threshold,
        "known_accepted": float((~refused[is_known]).mean()),
        "unknown_refused": float(refused[~is_known].mean()),
    }
