"""From answers to rankings: a permutation that depends on nothing but image and names."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.settings import SCORED
from eval.ranking.parsing import to_one_ranking, to_ranking
from eval.ranking.request import RankingRequest, Response


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SCORED), st.lists(st.floats(-200, 50), min_size=1, max_size=40))
def test_scores_become_a_permutation_with_probabilities_that_sum_to_one(mode, scores):
    names = tuple(str(i) for i in range(len(scores)))
    ranking = to_ranking(mode, names, RankingRequest("", "", names), Response(tuple(scores)))
    assert sorted(ranking.order) == list(range(len(scores)))
    assert [scores[place] for place in ranking.order] == sorted(scores, reverse=True)
    assert sum(ranking.probabilities) == pytest.approx(1)
    chances = [ranking.probabilities[place] for place in ranking.order]
    assert all(a >= b for a, b in pairwise(chances))


def test_ties_keep_the_retrievers_order_whatever_the_questions():
    question = RankingRequest("", "", ("a", "b", "c", "d"))
    answer = Response((1.0, 2.0, 1.0, 2.0))
    assert to_ranking("letters", "abcd", question, answer).order == (1, 3, 0, 2)
    assert to_ranking("letters", "dcba", question, answer).order == (0, 2, 1, 3)


def test_a_question_may_hold_more_names_than_the_candidates():
    question = RankingRequest("", "", ("a", "b", "c", "d"))
    ranking = to_ranking("likelihood", ("d", "b"), question, Response((9.0, 1.0, 9.0, 0.0)))
    assert ranking.order == (1, 0)
    assert ranking.probabilities == pytest.approx((0.26894142, 0.73105858))


@pytest.mark.parametrize("mode", SCORED)
def test_two_classes_of_one_name_share_its_score_and_stand_in_retriever_order(mode):
    question = RankingRequest("", "", ("crane", "stork"))
    ranking = to_ranking(mode, ("stork", "crane", "crane"), question, Response((2.0, 1.0)))
    assert ranking.order == (1, 2, 0)
    assert ranking.probabilities[1] == ranking.probabilities[2]


def test_one_candidate_is_certain():
    assert to_ranking("letters", ("a",), RankingRequest("", "", ("a",)), Response((-7.0,))).probabilities == (1.0,)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["constrained", "generate"]), st.text(max_size=80), st.integers(1, 8))
def test_any_reply_becomes_a_permutation(mode, reply, count):
    names = tuple(f"class {i}" for i in range(count))
    ranking = to_ranking(mode, names, RankingRequest("", "", names), Response(reply=reply))
    assert sorted(ranking.order) == list(range(count))
    assert ranking.outcome in ("ok", "repaired", "unreadable") and ranking.reply == reply


def test_a_written_list_is_read_in_its_order_and_letters_in_the_order_shown():
    question = RankingRequest("key", "", ("a bend", "a fess", "a pale"))
    ranking = to_ranking("generate", question.names, question, Response(reply="['a pale', 'a bend', 'a fess']"))
    assert (ranking.order, ranking.outcome, ranking.probabilities) == ((2, 0, 1), "ok", ())
    assert to_ranking("generate", question.names, question, Response(reply="A, B, C")).order == tuple(question.shown)


def test_several_orders_are_aggregated():
    questions = [RankingRequest("key", "", ("a", "b"), shuffle) for shuffle in range(3)]
    answers = [Response((0.0, 1.0)), Response((0.0, 1.0)), Response((1.0, 0.0))]
    ranking = to_one_ranking("letters", ("a", "b"), questions, answers, "mean")
    assert ranking.order == (1, 0)
    assert ranking.probabilities[1] == pytest.approx((2 * 0.73105858 + 0.26894142) / 3)
