"""Fusion recovers known parameters and calibrates, and the gate's curve equals naive counting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.records import Candidate, Ranking
from eval.calibration.fusion import (
    Fusion,
    fit_fusion,
    gate_curve,
    mark_new,
    stack_similarities,
    to_rankings,
    uncertainties,
)
from eval.metrics.reliability import reliability

K = 4


def make_data(ranker: float, image: float, name: float = 0.0, n: int = 1500, seed: int = 0):
    """Makes images whose true class follows a product of experts: logits and similarities with the given slopes."""
    rng = np.random.default_rng(seed)
    logits, similarities = rng.normal(0, 3, (n, K)), rng.uniform(0.5, 0.9, (n, K, 2))
    product = ranker * logits + image * similarities[..., 0] + name * similarities[..., 1]
    truths = (product + rng.gumbel(size=product.shape)).argmax(1).tolist()
    return to_rankings(logits), similarities, truths


def top1(rankings, truths) -> float:
    return float(np.mean([ranking.order[0] == truth for ranking, truth in zip(rankings, truths, strict=True)]))


def test_the_slopes_that_generated_the_data_are_recovered():
    fusion = fit_fusion(*make_data(0.5, 10.0, 20.0, n=4000), "margin", 0.0)
    assert (fusion.ranker, fusion.image, fusion.name) == pytest.approx((0.5, 10, 20), rel=0.15)


def test_an_uninformative_expert_gets_no_weight():
    silent = fit_fusion(*make_data(0.0, 20.0, 5.0), "margin", 0.0)
    assert silent.ranker < 0.05 and silent.image == pytest.approx(20, rel=0.2)
    perfect = fit_fusion(*make_data(3.0, 0.0, 0.0), "margin", 0.0)
    assert perfect.ranker > 2 and perfect.image < 2


def test_fusion_beats_each_expert_on_other_images():
    fusion = fit_fusion(*make_data(0.5, 12.0, 12.0), "margin", 0.0)
    rankings, similarities, truths = make_data(0.5, 12.0, 12.0, seed=1)
    fused = top1(fusion.fuse(rankings, similarities), truths)
    assert fused > top1(rankings, truths)
    assert fused > top1(fusion.retriever_rankings(similarities), truths)


@pytest.mark.parametrize("misses", [0, 400])
def test_confidence_is_the_share_of_right_images_even_where_the_retriever_misses(misses):
    rankings, similarities, truths = make_data(0.3, 8.0, n=3000)
    truths = [None] * misses + truths[misses:]
    fusion = fit_fusion(rankings, similarities, truths, "margin", 0.0)
    for table in (fusion.fuse(rankings, similarities), fusion.calibrate(rankings)):
        confidences = [max(ranking.probabilities) for ranking in table]
        right = [ranking.order[0] == truth for ranking, truth in zip(table, truths, strict=True)]
        assert np.mean(confidences) == pytest.approx(np.mean(right), abs=0.03)
        assert reliability(confidences, right)["ece"] < 0.06
    # The order is the ranker's own.
    assert [r.order for r in fusion.calibrate(rankings)] == [r.order for r in rankings]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-50, 50), st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0.01, 0.5, 3.0]),
    st.sampled_from([0.1, 1.0, 9.0]),
)
def test_rankings_are_permutations_with_probabilities_and_do_not_depend_on_other_images(rows, slope, temperature):
    fusion = Fusion(slope, 3.0, 2.0, temperature, temperature, 1.0, 1.0, "margin")
    rankings = [to_rankings(np.array([[logit for logit, *_ in row]]))[0] for row in rows]
    similarities = stack_similarities([[pair for _, *pair in row] for row in rows])
    wider = np.concatenate([similarities, np.full((len(rows), 1, 2), np.nan)], axis=1)
    for together, alone in (
        (fusion.fuse(rankings, similarities), lambda ranking, own: fusion.fuse([ranking], own)),
        (fusion.fuse(rankings, wider), lambda ranking, own: fusion.fuse([ranking], own)),
        (fusion.calibrate(rankings), lambda ranking, _: fusion.calibrate([ranking])),
        (fusion.retriever_rankings(similarities), lambda _, own: fusion.retriever_rankings(own)),
    ):
        for row, ranking, result in zip(rows, rankings, together, strict=True):
            assert sorted(result.order) == list(range(len(row)))
            assert sum(result.probabilities) == pytest.approx(1)
            (single,) = alone(ranking, stack_similarities([[pair for _, *pair in row]]))
            assert single.probabilities == pytest.approx(result.probabilities)
    shortest = min(range(len(rows)), key=lambda index: len(rows[index]))
    own = stack_similarities([[pair for _, *pair in rows[shortest]]])
    assert fusion.uncertainties(own)[0] == pytest.approx(fusion.uncertainties(similarities)[shortest])


def test_a_class_without_images_counts_as_the_least_similar_one():
    fusion = Fusion(0.0, 10.0, 0.0, 1.0, 1.0, 10.0, 0.0, "margin")
    similarities = np.array([[[0.9, 0.1], [np.nan, 0.9], [0.3, 0.1]]])
    (ranking,) = fusion.retriever_rankings(similarities)
    assert ranking.order == (0, 1, 2)
    assert ranking.probabilities[1] == pytest.approx(ranking.probabilities[2])
    # With names alone there is no similarity to images, and nothing changes by it.
    names = replace(fusion, retriever_name=5.0)
    (ranking,) = names.retriever_rankings(np.array([[[np.nan, 0.1], [np.nan, 0.9]]]))
    assert ranking.order == (1, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8), st.sampled_from(["margin", "entropy"]))
def test_uncertainty_is_0_for_a_certain_and_1_for_a_uniform_distribution(values, kind):
    count = len(values)
    rows = np.stack([np.array(values) / np.sum(values), np.full(count, 1 / count), np.eye(count)[0]])
    any_, uniform, certain = uncertainties(rows, kind)
    assert -1e-9 <= any_ <= 1 + 1e-9
    if count > 1:
        assert uniform == pytest.approx(1)
    assert certain == pytest.approx(0)


def test_an_expert_that_says_the_same_of_all_candidates_has_no_slope():
    rankings, similarities, truths = make_data(1.0, 5.0, n=200)
    similarities[..., 0] = np.nan  # a memory of names alone
    fusion = fit_fusion(rankings, similarities, truths, "margin", 0.0)
    assert fusion.image == fusion.retriever_image == 0


def gated(fusion: Fusion, rankings, similarities) -> list[Ranking]:
    fused, retrieved = fusion.fuse(rankings, similarities), fusion.retriever_rankings(similarities)
    needed = fusion.needs_ranker(similarities)
    return [f if n else r for f, r, n in zip(fused, retrieved, needed, strict=True)]


@pytest.mark.parametrize("gate", ["margin", "entropy"])
def test_the_gate_passes_as_few_images_as_its_loss_allows(gate):
    rankings, similarities, truths = make_data(3.0, 25.0)
    fusion = fit_fusion(rankings, similarities, truths, gate, 0.01)
    passed = fusion.needs_ranker(similarities)
    assert 0 < passed.mean() < 1
    all_ranked = top1(fusion.fuse(rankings, similarities), truths)
    assert top1(gated(fusion, rankings, similarities), truths) >= all_ranked - 0.01 - 1e-9
    cheaper = fit_fusion(rankings, similarities, truths, gate, 0.1)
    assert cheaper.needs_ranker(similarities).mean() < passed.mean()


def test_a_gate_that_may_lose_everything_passes_no_image():
    rankings, similarities, truths = make_data(3.0, 1.0, n=50)
    fusion = fit_fusion(rankings, similarities, truths, "margin", 1.0)
    assert not fusion.needs_ranker(similarities).any()


def test_the_gate_curve_equals_naive_counting():
    rankings, similarities, truths = make_data(2.0, 5.0, n=200)
    fusion = fit_fusion(rankings, similarities, truths, "margin", 0.0)
    curve = gate_curve(fusion, rankings, similarities, truths)
    assert [point["share"] for point in curve] == [tenth / 10 for tenth in range(11)]
    order = np.argsort(-fusion.uncertainties(similarities), kind="stable")
    fused, retrieved = fusion.fuse(rankings, similarities), fusion.retriever_rankings(similarities)
    for point in curve:
        passed = set(order[: round(point["share"] * 200)].tolist())
        hits = [(fused[i] if i in passed else retrieved[i]).order[0] == truths[i] for i in range(200)]
        assert point["top1"] == pytest.approx(np.mean(hits))


def test_images_whose_class_is_no_candidate_do_not_affect_the_slopes():
    rankings, similarities, truths = make_data(2.0, 5.0, n=100)
    fusion = fit_fusion(rankings, similarities, truths, "margin", 0.0)
    more = [[*rankings, rankings[0]], np.concatenate([similarities, similarities[:1]]), [*truths, None]]
    fitted = fit_fusion(*more, "margin", 0.0)
    assert (fitted.ranker, fitted.image) == pytest.approx((fusion.ranker, fusion.image), rel=1e-3)
    assert fit_fusion(rankings, similarities, [None] * 100, "margin", 0.0) is None


def test_what_favours_tuned_classes_is_fitted_and_taken_back():
    rng = np.random.default_rng(0)
    names = ("old a", "old b", "new c", "new d")
    candidates = [[Candidate(label, name, 0.0) for label, name in enumerate(names)]] * 400
    truths = rng.integers(4, size=400).tolist()
    logits = np.eye(4)[truths] * 2 + rng.normal(size=(400, 4)) + [3, 3, 0, 0]  # it favours what it was tuned on
    rankings = to_rankings(logits)
    plain = np.stack([rng.normal(size=(400, 4)), np.full((400, 4), np.nan)], -1)
    marked = mark_new(plain, candidates, {"old a", "old b"})
    assert marked.shape == (400, 4, 4)
    assert np.array_equal(marked[0, :, 3], [0, 0, 1, 1]) and np.isnan(marked[..., 2]).all()
    fused = {len(table[0, 0]): fit_fusion(rankings, table, truths, "margin", 0.005) for table in (plain, marked)}
    assert fused[4].new_class > 1 and fused[2].new_class == 0

    def accuracy(table: np.ndarray) -> float:
        fusion = fused[table.shape[2]]
        return np.mean([r.order[0] == truth for r, truth in zip(fusion.fuse(rankings, table), truths, strict=True)])

    assert accuracy(marked) > accuracy(plain) + 0.1
    assert mark_new(plain, candidates, ()) is plain


def test_padding_of_a_marked_table_is_no_candidate():
    table = mark_new(np.array([[[0.5, 0.4], [np.nan, np.nan]]]), [[Candidate(0, "new", 0.0)]], {"old"})
    assert table[0, 0, 3] == 1 and np.isnan(table[0, 1]).all()
