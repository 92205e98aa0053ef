"""Aggregation of rankings, checked by hand or against brute force."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.records import Ranking
from eval.ranking.aggregation import aggregate_rankings

METHODS = ("mean", "borda", "kemeny")
orders = st.integers(1, 5).flatmap(lambda k: st.lists(st.permutations(range(k)), min_size=1, max_size=6))


def with_probabilities(order) -> Ranking:
    """Makes a ranking whose probabilities decrease by rank."""
    weights = np.zeros(len(order))
    weights[list(order)] = np.arange(len(order), 0, -1)
    return Ranking(tuple(order), tuple((weights / weights.sum()).tolist()))


@settings(max_examples=80, deadline=None)
@given(orders, st.sampled_from(METHODS))
def test_every_method_gives_a_permutation_that_keeps_the_order_of_pairs_on_which_all_agree(rows, method):
    ranking = aggregate_rankings([with_probabilities(row) for row in rows], method)
    assert sorted(ranking.order) == list(range(len(rows[0])))
    assert sum(ranking.probabilities) == pytest.approx(1)
    for i, j in combinations(range(len(rows[0])), 2):
        if all(row.index(i) < row.index(j) for row in rows):
            assert ranking.order.index(i) < ranking.order.index(j)


@settings(max_examples=80, deadline=None)
@given(orders, st.sampled_from(METHODS), st.randoms())
def test_the_order_of_the_rankings_does_not_matter(rows, method, rng):
    shuffled = list(rows)
    rng.shuffle(shuffled)
    ranking = aggregate_rankings([with_probabilities(row) for row in rows], method)
    other = aggregate_rankings([with_probabilities(row) for row in shuffled], method)
    assert ranking.order == other.order
    assert ranking.probabilities == pytest.approx(other.probabilities)


def disagreements(order, rows) -> int:
    return sum(row.index(order[j]) < row.index(order[i]) for row in rows for i, j in combinations(range(len(order)), 2))


@settings(max_examples=60, deadline=None)
@given(orders)
def test_kemeny_has_the_fewest_pairwise_disagreements_and_takes_the_first_order_of_a_tie(rows):
    fewest = min(permutations(range(len(rows[0]))), key=lambda order: (disagreements(order, rows), order))
    assert aggregate_rankings([Ranking(tuple(row)) for row in rows], "kemeny").order == fewest


def test_borda_counts_ranks_and_ties_keep_the_retrievers_order():
    rows = [(2, 0, 1), (2, 1, 0), (0, 2, 1)]
    assert aggregate_rankings([Ranking(row) for row in rows], "borda").order == (2, 0, 1)
    assert aggregate_rankings([Ranking((0, 1)), Ranking((1, 0))], "borda").order == (0, 1)
    assert aggregate_rankings([Ranking((0, 1)), Ranking((1, 0))], "kemeny").order == (0, 1)


def test_the_mean_averages_probabilities_so_a_confident_ranking_outweighs_uncertain_ones():
    rows = [Ranking((1, 0), (0.02, 0.98)), Ranking((0, 1), (0.55, 0.45)), Ranking((0, 1), (0.55, 0.45))]
    ranking = aggregate_rankings(rows, "mean")
    assert ranking.order == (1, 0)
    assert ranking.probabilities == pytest.approx((0.3733333, 0.6266667))


def test_the_worst_outcome_and_all_replies_are_kept():
    rows = [
        Ranking((0, 1), (), "ok", "a"),
        Ranking((0, 1), (), "unreadable", "b"),
        Ranking((0, 1), (), "repaired", "c"),
    ]
    ranking = aggregate_rankings(rows, "borda")
    assert (ranking.outcome, ranking.reply, ranking.probabilities) == ("unreadable", "a\nb\nc", ())


def test_kemeny_handles_twelve_candidates():
    rows = [Ranking(tuple(np.random.default_rng(seed).permutation(12).tolist())) for seed in range(3)]
    assert sorted(aggregate_rankings(rows, "kemeny").order) == list(range(12))
