"""From responses to rankings: always a permutation, which depends on image and names alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.settings import SCORED
from eval.ranking.parsing import aggregate_responses, to_ranking
from eval.ranking.request import RankingRequest, Response


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SCORED), st.lists(st.floats(-200, 50), min_size=1, max_size=40))
def test_scores_become_a_permutation_with_probabilities_that_sum_to_one(mode, scores):
    names = tuple(str(i) for i in range(len(scores)))
    ranking = to_ranking(mode, names, RankingRequest("", "", names), Response(tuple(scores)))
    assert sorted(ranking.order) == list(range(len(scores)))
    assert [scores[index] for index in ranking.order] == sorted(scores, reverse=True)
    assert sum(ranking.probabilities) == pytest.approx(1)
    probabilities = [ranking.probabilities[index] for index in ranking.order]
    assert all(a >= b for a, b in pairwise(probabilities))


def test_ties_keep_the_retrievers_order_whatever_the_order_of_the_request():
    request = RankingRequest("", "", ("a", "b", "c", "d"))
    response = Response((1.0, 2.0, 1.0, 2.0))
    assert to_ranking("letters", "abcd", request, response).order == (1, 3, 0, 2)
    assert to_ranking("letters", "dcba", request, response).order == (0, 2, 1, 3)


def test_a_request_may_have_more_names_than_the_candidates():
    request = RankingRequest("", "", ("a", "b", "c", "d"))
    ranking = to_ranking("likelihood", ("d", "b"), request, Response((9.0, 1.0, 9.0, 0.0)))
    assert ranking.order == (1, 0)
    assert ranking.probabilities == pytest.approx((0.26894142, 0.73105858))


@pytest.mark.parametrize("mode", SCORED)
def test_two_classes_with_the_same_name_share_its_score_and_keep_retriever_order(mode):
    request = RankingRequest("", "", ("crane", "stork"))
    ranking = to_ranking(mode, ("stork", "crane", "crane"), request, Response((2.0, 1.0)))
    assert ranking.order == (1, 2, 0)
    assert ranking.probabilities[1] == ranking.probabilities[2]


def test_a_single_candidate_has_probability_one():
    assert to_ranking("letters", ("a",), RankingRequest("", "", ("a",)), Response((-7.0,))).probabilities == (1.0,)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["constrained", "generate"]), st.text(max_size=80), st.integers(1, 8))
def test_any_reply_becomes_a_permutation(mode, reply, count):
    names = tuple(f"class {i}" for i in range(count))
    ranking = to_ranking(mode, names, RankingRequest("", "", names), Response(reply=reply))
    assert sorted(ranking.order) == list(range(count))
    assert ranking.outcome in ("ok", "repaired", "unreadable") and ranking.reply == reply


def test_a_list_of_names_is_parsed_in_its_order_and_letters_refer_to_the_order_shown():
    request = RankingRequest("key", "", ("a bend", "a fess", "a pale"))
    ranking = to_ranking("generate", request.names, request, Response(reply="['a pale', 'a bend', 'a fess']"))
    assert (ranking.order, ranking.outcome, ranking.probabilities) == ((2, 0, 1), "ok", ())
    assert to_ranking("generate", request.names, request, Response(reply="A, B, C")).order == tuple(request.shown)


def test_several_orders_are_aggregated():
    requests = [RankingRequest("key", "", ("a", "b"), shuffle) for shuffle in range(3)]
    responses = [Response((0.0, 1.0)), Response((0.0, 1.0)), Response((1.0, 0.0))]
    ranking = aggregate_responses("letters", ("a", "b"), requests, responses, "mean")
    assert ranking.order == (1, 0)
    assert ranking.probabilities[1] == pytest.approx((2 * 0.73105858 + 0.26894142) / 3)
