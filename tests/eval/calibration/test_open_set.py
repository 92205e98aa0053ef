"""Unknown classes: the best signal is chosen, and its threshold splits as well as it can."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, Ranking
from eval.calibration.open_set import Refusal, aurocs, fit_refusal, open_set_signals, refusal_metrics

KNOWN = [True] * 40 + [False] * 40


def signals(seed: int = 0) -> list[dict[str, float]]:
    """One signal of noise, one that tells well and one that tells a little."""
    rng = np.random.default_rng(seed)
    return [
        {"retriever": rng.normal(), "probability": rng.normal(2.5 * known), "score": rng.normal(0.5 * known)}
        for known in KNOWN
    ]


def test_the_signal_that_tells_best_is_chosen_and_its_figures_are_counts():
    refusal = fit_refusal(signals(), KNOWN)
    assert refusal.signal == "probability"
    others = signals(1)
    metrics = refusal_metrics(refusal, others, KNOWN)
    assert (metrics["known"], metrics["unknown"], metrics["signal"]) == (40, 40, "probability")
    assert metrics["auroc"] == aurocs(others, KNOWN)
    assert metrics["known_accepted"] == np.mean([s["probability"] >= refusal.threshold for s in others[:40]])
    assert metrics["unknown_refused"] == np.mean([s["probability"] < refusal.threshold for s in others[40:]])
    assert metrics["known_accepted"] + metrics["unknown_refused"] > 1.5


def test_signals_that_part_the_images_part_them_by_the_threshold():
    refusal = fit_refusal([{"score": 3.0}, {"score": 2.0}, {"score": 0.0}], [True, True, False])
    assert refusal == Refusal("score", 1.0)
    assert [refusal.refuses({"score": value}) for value in (2.0, 0.0)] == [False, True]


def test_a_threshold_on_the_ranker_says_nothing_where_the_ranker_was_not_asked():
    candidates = (Candidate(0, "a", 0.8), Candidate(1, "b", 0.3))
    assert open_set_signals(candidates, Ranking((0, 1), (0.6, 0.4)), -3.0) == {
        "retriever": 0.8,
        "probability": 0.6,
        "score": -3.0,
    }
    assert open_set_signals(candidates, None, 0.0) == {"retriever": 0.8}
    assert Refusal("score", 1.0).refuses({"retriever": 0.8}) is None


def test_both_kinds_of_images_are_needed():
    with pytest.raises(UserError, match=r"eval\.unknown"):
        fit_refusal(signals()[:40], KNOWN[:40])
