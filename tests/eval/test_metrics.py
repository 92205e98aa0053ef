"""Figures and their intervals, against the obvious way to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import auroc, bootstrap_interval, by_place, hits_at, resampled_means, staged

rankings = st.lists(st.tuples(st.permutations(range(6)), st.integers(0, 7)), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(rankings, st.integers(1, 6))
def test_hits_are_truths_among_the_first_k(rows, k):
    ranked, truths = zip(*rows, strict=True)
    naive = [any(ranked[i][place] == truths[i] for place in range(k)) for i in range(len(rows))]
    hits = hits_at(ranked, truths, k)
    assert hits.dtype == bool and hits.tolist() == naive


def test_rankings_may_be_shorter_than_k_and_of_different_lengths():
    assert hits_at([[3], [1, 2], []], [3, 2, 0], 5).tolist() == [True, True, False]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 1.0]), st.integers(0, 5)), min_size=1, max_size=60))
def test_the_interval_contains_the_mean_and_stays_within_the_classes_means(rows):
    differences, groups = (np.array(column) for column in zip(*rows, strict=True))
    mean, low, high = bootstrap_interval(differences, groups, 1000)
    assert mean == pytest.approx(differences.mean())
    assert low - 1e-9 <= mean <= high + 1e-9
    by_class = [differences[groups == group].mean() for group in np.unique(groups)]
    assert min(by_class) - 1e-9 <= low and high <= max(by_class) + 1e-9


def test_the_interval_has_the_width_that_theory_gives():
    differences = np.random.default_rng(0).normal(0.3, 1, 400)
    _, low, high = bootstrap_interval(differences, np.arange(400), 4000)
    assert (high - low) == pytest.approx(2 * 1.96 * differences.std() / np.sqrt(400), rel=0.1)
    assert low < 0.3 < high


def test_whole_classes_are_drawn_so_copies_of_images_do_not_narrow_it():
    differences, groups = np.random.default_rng(0).normal(size=30), np.arange(30)
    once = bootstrap_interval(differences, groups, 500)
    often = bootstrap_interval(np.repeat(differences, 50), np.repeat(groups, 50), 500)
    assert often == pytest.approx(once)


def test_the_interval_repeats_with_its_seed():
    differences, groups = np.random.default_rng(0).normal(size=50), np.arange(50) % 10
    assert bootstrap_interval(differences, groups, 100, 1) == bootstrap_interval(differences, groups, 100, 1)
    assert bootstrap_interval(differences, groups, 100, 1) != bootstrap_interval(differences, groups, 100, 2)


def test_staged_figures_on_four_images():
    # The truth is kept first, broken, corrected, and not there at all.
    first, right, found = [True, True, False, False], [True, False, True, False], [True, True, True, False]
    assert staged(first, right, found, {"repaired": 1, "ok": 3}) == {
        "top1_given_hit": pytest.approx(2 / 3),
        "corrected": 1,
        "broken": 1,
        "outcomes": {"ok": 3, "repaired": 1},
    }
    assert staged([False], [False], [False], {"ok": 1})["top1_given_hit"] is None


def test_seeds_are_drawn_beside_classes():
    """Classes that agree leave the seeds alone to vary, and one seed leaves the classes alone."""
    groups = np.arange(40)
    values = np.repeat([[0.0], [1.0]], 40, axis=1)
    mean, low, high = bootstrap_interval(values, groups, 2000)
    assert (mean, low, high) == (0.5, 0.0, 1.0)
    drawn = resampled_means(values, groups, 4000)
    assert [np.mean(drawn == share) for share in (0, 0.5, 1)] == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    one = np.random.default_rng(0).normal(size=40)
    assert bootstrap_interval(one, groups, 500) == bootstrap_interval(one[None], groups, 500)
    # The same values by every seed are as one seed's: seeds that agree add no doubt.
    assert bootstrap_interval(np.stack([one] * 3), groups, 500) == pytest.approx(bootstrap_interval(one, groups, 500))


def test_accuracy_by_place_shows_a_ranker_that_always_takes_the_first():
    rows = by_place([0, 0, 1, 2], [0, 0, 0, 0], 4)
    assert [row["n"] for row in rows] == [2, 1, 1, 0]
    assert [row["top1"] for row in rows] == [1.0, 0.0, 0.0, None]
    assert [row["chosen"] for row in rows] == [1.0, 0.0, 0.0, 0.0]
    assert [row["place"] for row in rows] == [1, 2, 3, 4]


scores = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(scores, scores)
def test_auroc_is_the_share_of_pairs_in_order(positive, negative):
    pairs = [(a > b) + (a == b) / 2 for a in positive for b in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))
