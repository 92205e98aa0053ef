"""Open-set thresholds: the best signal is chosen, and its threshold has the best balanced accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, Ranking
from eval.calibration.open_set import Refusal, aurocs, fit_refusal, open_set_signals, refusal_metrics

KNOWN = [True] * 40 + [False] * 40


def signals(seed: int = 0) -> list[dict[str, float]]:
    """Returns one signal of pure noise, one that separates well and one that separates a little."""
    rng = np.random.default_rng(seed)
    return [
        {"retriever": rng.normal(), "probability": rng.normal(2.5 * known), "score": rng.normal(0.5 * known)}
        for known in KNOWN
    ]


def test_the_signal_that_separates_best_is_chosen_and_its_metrics_are_counted():
    refusal = fit_refusal(signals(), KNOWN)
    assert refusal.signal == "probability"
    test_signals = signals(1)
    metrics = refusal_metrics(refusal, test_signals, KNOWN)
    assert (metrics["known"], metrics["unknown"], metrics["signal"]) == (40, 40, "probability")
    assert metrics["auroc"] == aurocs(test_signals, KNOWN)
    assert metrics["known_accepted"] == np.mean([s["probability"] >= refusal.threshold for s in test_signals[:40]])
    assert metrics["unknown_refused"] == np.mean([s["probability"] < refusal.threshold for s in test_signals[40:]])
    assert metrics["known_accepted"] + metrics["unknown_refused"] > 1.5


def test_a_threshold_separates_images_that_are_separable():
    refusal = fit_refusal([{"score": 3.0}, {"score": 2.0}, {"score": 0.0}], [True, True, False])
    assert refusal == Refusal("score", 1.0)
    assert [refusal.refuses({"score": value}) for value in (2.0, 0.0)] == [False, True]


def test_a_threshold_on_the_ranker_gives_no_decision_where_the_ranker_was_not_run():
    candidates = (Candidate(0, "a", 0.8), Candidate(1, "b", 0.3))
    assert open_set_signals(candidates, Ranking((0, 1), (0.6, 0.4)), -3.0) == {
        "retriever": 0.8,
        "probability": 0.6,
        "score": -3.0,
    }
    assert open_set_signals(candidates, None, 0.0) == {"retriever": 0.8}
    assert Refusal("score", 1.0).refuses({"retriever": 0.8}) is None


def test_known_and_unknown_images_are_both_required():
    with pytest.raises(UserError, match=r"eval\.open_set_fraction"):
        fit_refusal(signals()[:40], KNOWN[:40])
