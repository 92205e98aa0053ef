"""Three ways to ask, one kind of answer: a permutation that depends on nothing but image and names."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.settings import MODES
from eval.ranking import Answer, Question, ask, shown_order, to_ranking

SCORED = ("likelihood", "letters")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SCORED), st.lists(st.floats(-200, 50), min_size=1, max_size=26))
def test_scores_become_a_permutation_with_probabilities_that_sum_to_one(mode, scores):
    ranking = to_ranking(mode, [str(i) for i in range(len(scores))], Answer(tuple(scores)))
    assert sorted(ranking.order) == list(range(len(scores)))
    ordered = [scores[place] for place in ranking.order]
    assert ordered == sorted(scores, reverse=True)
    assert len(ranking.probabilities) == len(scores)
    assert sum(ranking.probabilities) == pytest.approx(1)
    chances = [ranking.probabilities[place] for place in ranking.order]
    assert all(a >= b for a, b in pairwise(chances))


def test_ties_keep_the_retrievers_order():
    assert to_ranking("letters", "abcd", Answer((1.0, 2.0, 1.0, 2.0))).order == (1, 3, 0, 2)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=80), st.integers(1, 8))
def test_any_reply_becomes_a_permutation(reply, count):
    ranking = to_ranking("generate", [f"class {i}" for i in range(count)], Answer(reply=reply))
    assert sorted(ranking.order) == list(range(count))
    assert ranking.outcome in ("ok", "repaired", "unreadable") and ranking.reply == reply


def test_a_written_list_is_read_in_its_order():
    ranking = to_ranking("generate", ["a", "b", "c"], Answer(reply="['c', 'a', 'b']"))
    assert (ranking.order, ranking.outcome, ranking.probabilities) == ((2, 0, 1), "ok", ())


@settings(max_examples=60, deadline=None)
@given(st.permutations([f"class {i}" for i in range(7)]), st.text(max_size=10))
def test_the_order_shown_carries_nothing_of_the_order_retrieved(names, key):
    def shown(names) -> list[str]:
        question = Question(key, "", tuple(names))
        return [question.names[place] for place in shown_order(question)]

    assert shown(names) == shown(sorted(names))


def test_the_order_shown_differs_from_image_to_image_and_puts_each_name_first_as_often():
    names = tuple(f"class {i}" for i in range(5))
    first = [shown_order(Question(str(key), "", names))[0] for key in range(1000)]
    assert all(140 < first.count(place) < 260 for place in range(5))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_ranks_every_question(nano, questions, mode):
    answers = ask(nano, mode, questions)
    assert len(answers) == len(questions)
    for question, answer in zip(questions, answers, strict=True):
        assert len(answer.scores) == (0 if mode == "generate" else len(question.names))
        ranking = to_ranking(mode, question.names, answer)
        assert sorted(ranking.order) == list(range(len(question.names)))


@pytest.mark.parametrize("mode", MODES)
def test_answers_do_not_depend_on_the_batch(nano, questions, mode):
    together = ask(nano, mode, questions)
    alone = [answer for question in questions for answer in ask(nano, mode, [question])]
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-4, abs=1e-3)
        assert one.reply == other.reply


@pytest.mark.parametrize("mode", MODES)
def test_answers_do_not_depend_on_the_names_order(nano, questions, mode):
    turned = [replace(question, names=question.names[::-1]) for question in questions]
    for one, other in zip(ask(nano, mode, questions), ask(nano, mode, turned), strict=True):
        assert one.scores == pytest.approx(other.scores[::-1], rel=1e-4, abs=1e-3)
        assert one.reply == other.reply


def test_a_likelihood_does_not_depend_on_the_other_names(nano, questions):
    (whole,) = ask(nano, "likelihood", questions[:1])
    (part,) = ask(nano, "likelihood", [replace(questions[0], names=questions[0].names[1:3])])
    assert part.scores == pytest.approx(whole.scores[1:3], rel=1e-4, abs=1e-3)


def test_answers_depend_on_the_picture(nano, questions):
    other = replace(questions[0], path=questions[1].path)
    for mode in SCORED:
        assert ask(nano, mode, [questions[0]])[0].scores != pytest.approx(ask(nano, mode, [other])[0].scores, abs=1e-6)
