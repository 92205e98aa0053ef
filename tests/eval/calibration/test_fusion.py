"""Fusion is fitted where it can be worked out, and the gate's curve is what one gets by counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.records import Ranking
from eval.calibration.fusion import Fusion, fit_fusion, gate_curve, uncertainty

K = 4


def ranking_of(logits) -> Ranking:
    chances = np.exp(logits - np.max(logits))
    chances /= chances.sum()
    return Ranking(tuple(np.argsort(-chances, kind="stable").tolist()), tuple(chances.tolist()))


def drawn(ranker: float, retriever: float, n: int = 1500, seed: int = 0):
    """Images whose truth follows a product of experts: logits and similarities with the given slopes."""
    rng = np.random.default_rng(seed)
    logits, scores = rng.normal(0, 3, (n, K)), -np.sort(-rng.uniform(0.5, 0.9, (n, K)), axis=1)
    truths = [int(np.argmax(row + rng.gumbel(size=K))) for row in ranker * logits + retriever * scores]
    return [ranking_of(row) for row in logits], scores.tolist(), truths


def test_the_weights_that_made_the_data_are_found():
    fusion = fit_fusion(*drawn(0.5, 10.0), "margin", 0.0)
    # The slopes of the product, undone from weight and temperatures.
    ranker = fusion.weight / fusion.temperature / fusion.ranker_temperature
    retriever = (1 - fusion.weight) / fusion.temperature / fusion.retriever_temperature
    assert ranker == pytest.approx(0.5, rel=0.1)
    assert retriever == pytest.approx(10, rel=0.2)


def test_a_ranker_that_knows_nothing_gets_no_weight_and_a_perfect_one_all():
    assert fit_fusion(*drawn(0.0, 20.0), "margin", 0.0).weight < 0.15
    assert fit_fusion(*drawn(5.0, 0.0), "margin", 0.0).weight > 0.9


def test_fusion_beats_each_expert_on_other_images():
    fusion = fit_fusion(*drawn(0.5, 12.0), "margin", 0.0)
    rankings, scores, truths = drawn(0.5, 12.0, seed=1)
    fused = np.mean([fusion.fused(r, s).order[0] == t for r, s, t in zip(rankings, scores, truths, strict=True)])
    assert fused > np.mean([r.order[0] == t for r, t in zip(rankings, truths, strict=True)])
    assert fused > np.mean([t == 0 for t in truths])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-1, 1)), min_size=1, max_size=8), st.floats(0, 1))
def test_a_fused_ranking_is_a_permutation_with_probabilities(rows, weight):
    logits, scores = zip(*rows, strict=True)
    ranking = Fusion(weight, 0.5, 2.0, 0.05, "margin").fused(ranking_of(np.array(logits)), scores)
    assert sorted(ranking.order) == list(range(len(rows)))
    assert sum(ranking.probabilities) == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8), st.sampled_from(["margin", "entropy"]))
def test_doubt_lies_between_certain_and_even(values, kind):
    chances = np.array(values) / np.sum(values)
    assert -1e-9 <= uncertainty(chances, kind) <= 1 + 1e-9
    if len(values) > 1:
        assert uncertainty(np.full(len(values), 1 / len(values)), kind) == pytest.approx(1)
    assert uncertainty(np.eye(len(values))[0], kind) == pytest.approx(0)


@pytest.mark.parametrize("gate", ["margin", "entropy"])
def test_the_gate_asks_for_as_few_as_its_loss_allows(gate):
    rankings, scores, truths = drawn(3.0, 25.0)
    fusion = fit_fusion(rankings, scores, truths, gate, 0.01)
    asked = [fusion.asks(own) for own in scores]
    assert 0 < np.mean(asked) < 1
    gated = [
        (fusion.fused(r, s) if a else fusion.unasked(s)).order[0] == t
        for r, s, a, t in zip(rankings, scores, asked, truths, strict=True)
    ]
    whole = [fusion.fused(r, s).order[0] == t for r, s, t in zip(rankings, scores, truths, strict=True)]
    assert np.mean(gated) >= np.mean(whole) - 0.01 - 1e-9
    cheaper = fit_fusion(rankings, scores, truths, gate, 0.1)
    assert np.mean([cheaper.asks(own) for own in scores]) < np.mean(asked)


def test_a_gate_that_may_lose_everything_asks_about_nothing():
    rankings, scores, truths = drawn(3.0, 1.0, n=50)
    fusion = fit_fusion(rankings, scores, truths, "margin", 1.0)
    assert not any(fusion.asks(own) for own in scores)


def test_the_curve_runs_from_the_retriever_to_the_ranker_by_counting():
    rankings, scores, truths = drawn(2.0, 5.0, n=200)
    fusion = fit_fusion(rankings, scores, truths, "margin", 0.0)
    curve = gate_curve(fusion, rankings, scores, truths)
    assert [point["share"] for point in curve] == [tenth / 10 for tenth in range(11)]
    doubts = np.array([fusion.uncertainty(own) for own in scores])
    for point in curve:
        asked = set(np.argsort(-doubts, kind="stable")[: round(point["share"] * 200)].tolist())
        hits = [
            (fusion.fused(rankings[i], scores[i]) if i in asked else fusion.unasked(scores[i])).order[0] == truths[i]
            for i in range(200)
        ]
        assert point["top1"] == pytest.approx(np.mean(hits))


def test_images_without_their_class_among_the_candidates_count_as_misses_and_do_not_fit():
    rankings, scores, truths = drawn(2.0, 5.0, n=100)
    more = fit_fusion([*rankings, rankings[0]], [*scores, scores[0]], [*truths, None], "margin", 0.0)
    fusion = fit_fusion(rankings, scores, truths, "margin", 0.0)
    assert (more.weight, more.temperature) == pytest.approx((fusion.weight, fusion.temperature))
    with pytest.raises(UserError, match=r"raise eval\.k"):
        fit_fusion(rankings, scores, [None] * 100, "margin", 0.0)
