"""Fusion recovers known parameters, and the gate's curve equals naive counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.records import Ranking
from eval.calibration.fusion import Fusion, fit_fusion, gate_curve, uncertainty

K = 4


def make_ranking(logits) -> Ranking:
    probabilities = np.exp(logits - np.max(logits))
    probabilities /= probabilities.sum()
    return Ranking(tuple(np.argsort(-probabilities, kind="stable").tolist()), tuple(probabilities.tolist()))


def make_data(ranker: float, retriever: float, n: int = 1500, seed: int = 0):
    """Makes images whose true class follows a product of experts: logits and similarities with the given slopes."""
    rng = np.random.default_rng(seed)
    logits, scores = rng.normal(0, 3, (n, K)), -np.sort(-rng.uniform(0.5, 0.9, (n, K)), axis=1)
    truths = [int(np.argmax(row + rng.gumbel(size=K))) for row in ranker * logits + retriever * scores]
    return [make_ranking(row) for row in logits], scores.tolist(), truths


def test_the_weights_that_generated_the_data_are_recovered():
    fusion = fit_fusion(*make_data(0.5, 10.0), "margin", 0.0)
    # The slopes of the product, computed back from weight and temperatures.
    ranker = fusion.weight / fusion.temperature / fusion.ranker_temperature
    retriever = (1 - fusion.weight) / fusion.temperature / fusion.retriever_temperature
    assert ranker == pytest.approx(0.5, rel=0.1)
    assert retriever == pytest.approx(10, rel=0.2)


def test_an_uninformative_ranker_gets_no_weight_and_a_perfect_one_all():
    assert fit_fusion(*make_data(0.0, 20.0), "margin", 0.0).weight < 0.15
    assert fit_fusion(*make_data(5.0, 0.0), "margin", 0.0).weight > 0.9


def test_fusion_beats_each_expert_on_other_images():
    fusion = fit_fusion(*make_data(0.5, 12.0), "margin", 0.0)
    rankings, scores, truths = make_data(0.5, 12.0, seed=1)
    fused = np.mean([fusion.fuse(r, s).order[0] == t for r, s, t in zip(rankings, scores, truths, strict=True)])
    assert fused > np.mean([r.order[0] == t for r, t in zip(rankings, truths, strict=True)])
    assert fused > np.mean([t == 0 for t in truths])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-1, 1)), min_size=1, max_size=8), st.floats(0, 1))
def test_a_fused_ranking_is_a_permutation_with_probabilities(rows, weight):
    logits, scores = zip(*rows, strict=True)
    ranking = Fusion(weight, 0.5, 2.0, 0.05, "margin").fuse(make_ranking(np.array(logits)), scores)
    assert sorted(ranking.order) == list(range(len(rows)))
    assert sum(ranking.probabilities) == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8), st.sampled_from(["margin", "entropy"]))
def test_uncertainty_is_0_for_a_certain_and_1_for_a_uniform_distribution(values, kind):
    probabilities = np.array(values) / np.sum(values)
    assert -1e-9 <= uncertainty(probabilities, kind) <= 1 + 1e-9
    if len(values) > 1:
        assert uncertainty(np.full(len(values), 1 / len(values)), kind) == pytest.approx(1)
    assert uncertainty(np.eye(len(values))[0], kind) == pytest.approx(0)


@pytest.mark.parametrize("gate", ["margin", "entropy"])
def test_the_gate_passes_as_few_images_as_its_loss_allows(gate):
    rankings, scores, truths = make_data(3.0, 25.0)
    fusion = fit_fusion(rankings, scores, truths, gate, 0.01)
    passed = [fusion.needs_ranker(row) for row in scores]
    assert 0 < np.mean(passed) < 1
    gated = [
        (fusion.fuse(r, s) if p else fusion.retriever_ranking(s)).order[0] == t
        for r, s, p, t in zip(rankings, scores, passed, truths, strict=True)
    ]
    all_ranked = [fusion.fuse(r, s).order[0] == t for r, s, t in zip(rankings, scores, truths, strict=True)]
    assert np.mean(gated) >= np.mean(all_ranked) - 0.01 - 1e-9
    cheaper = fit_fusion(rankings, scores, truths, gate, 0.1)
    assert np.mean([cheaper.needs_ranker(row) for row in scores]) < np.mean(passed)


def test_a_gate_that_may_lose_everything_passes_no_image():
    rankings, scores, truths = make_data(3.0, 1.0, n=50)
    fusion = fit_fusion(rankings, scores, truths, "margin", 1.0)
    assert not any(fusion.needs_ranker(row) for row in scores)


def test_the_gate_curve_equals_naive_counting():
    rankings, scores, truths = make_data(2.0, 5.0, n=200)
    fusion = fit_fusion(rankings, scores, truths, "margin", 0.0)
    curve = gate_curve(fusion, rankings, scores, truths)
    assert [point["share"] for point in curve] == [tenth / 10 for tenth in range(11)]
    uncertainties = np.array([fusion.uncertainty(row) for row in scores])
    for point in curve:
        passed = set(np.argsort(-uncertainties, kind="stable")[: round(point["share"] * 200)].tolist())
        hits = [
            (fusion.fuse(rankings[i], scores[i]) if i in passed else fusion.retriever_ranking(scores[i])).order[0]
            == truths[i]
            for i in range(200)
        ]
        assert point["top1"] == pytest.approx(np.mean(hits))


def test_images_whose_class_is_no_candidate_count_as_misses_and_do_not_affect_the_fit():
    rankings, scores, truths = make_data(2.0, 5.0, n=100)
    more = fit_fusion([*rankings, rankings[0]], [*scores, scores[0]], [*truths, None], "margin", 0.0)
    fusion = fit_fusion(rankings, scores, truths, "margin", 0.0)
    assert (more.weight, more.temperature) == pytest.approx((fusion.weight, fusion.temperature))
    with pytest.raises(UserError, match=r"raise eval\.k"):
        fit_fusion(rankings, scores, [None] * 100, "margin", 0.0)
