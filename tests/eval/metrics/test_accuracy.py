"""Ranking metrics against naive implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.accuracy import auroc, hits_at, staged_accuracy, top1_by_position

rankings = st.lists(st.tuples(st.permutations(range(6)), st.integers(0, 7)), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(rankings, st.integers(1, 6))
def test_hits_are_truths_among_the_first_k(rows, k):
    ranked, truths = zip(*rows, strict=True)
    naive = [any(ranked[i][rank] == truths[i] for rank in range(k)) for i in range(len(rows))]
    hits = hits_at(ranked, truths, k)
    assert hits.dtype == bool and hits.tolist() == naive


def test_rankings_may_be_shorter_than_k_and_of_different_lengths():
    assert hits_at([[3], [1, 2], []], [3, 2, 0], 5).tolist() == [True, True, False]


def test_staged_accuracy_of_four_images():
    # Right in both, broken, corrected, and the true class is not among the candidates.
    retriever_hits, ranker_hits, in_candidates = (
        [True, True, False, False],
        [True, False, True, False],
        [True, True, True, False],
    )
    assert staged_accuracy(retriever_hits, ranker_hits, in_candidates, {"repaired": 1, "ok": 3}) == {
        "top1_given_hit": pytest.approx(2 / 3),
        "corrected": 1,
        "broken": 1,
        "outcomes": {"ok": 3, "repaired": 1},
    }
    assert staged_accuracy([False], [False], [False], {"ok": 1})["top1_given_hit"] is None


def test_top1_by_position_shows_a_ranker_that_always_picks_the_first_candidate():
    rows = top1_by_position([0, 0, 1, 2], [0, 0, 0, 0], 4)
    assert [row["n"] for row in rows] == [2, 1, 1, 0]
    assert [row["top1"] for row in rows] == [1.0, 0.0, 0.0, None]
    assert [row["chosen"] for row in rows] == [1.0, 0.0, 0.0, 0.0]
    assert [row["place"] for row in rows] == [1, 2, 3, 4]


scores = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(scores, scores)
def test_auroc_is_the_share_of_correctly_ordered_pairs(positive, negative):
    pairs = [(a > b) + (a == b) / 2 for a in positive for b in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))
