"""Four ways to ask, one kind of answer, which does not depend on the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import list_prompt
from data_prep.settings import MODES, SCORED
from eval.ranking.modes import run_batch
from eval.ranking.parsing import to_ranking
from eval.ranking.request import RankingMode, RankingRequest
from rar_train.models.mllm import Mllm


def rankings(mllm: Mllm, mode: str, questions: list[RankingRequest], size: int) -> list[tuple]:
    """Orders and outcomes, asked in batches of a size."""
    answers = []
    for start in range(0, len(questions), size):
        answers += run_batch(mllm, RankingMode(mode), questions[start : start + size])
    ranked = [to_ranking(mode, q.names, q, a) for q, a in zip(questions, answers, strict=True)]
    return [(ranking.order, ranking.outcome) for ranking in ranked]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_ranks_every_question(nano, questions, mode):
    answers = run_batch(nano, RankingMode(mode), questions)
    assert len(answers) == len(questions)
    for question, answer in zip(questions, answers, strict=True):
        assert len(answer.scores) == (len(question.names) if mode in SCORED else 0)
        ranking = to_ranking(mode, question.names, question, answer)
        assert sorted(ranking.order) == list(range(len(question.names)))
        if mode == "constrained":
            assert ranking.outcome == "ok"


@pytest.mark.parametrize("mode", MODES)
def test_rankings_are_the_same_in_batches_of_1_2_7_and_16_and_in_another_order(nano, many, mode):
    """Prompts are of 2 to 6 names, so every batch is padded on the left."""
    together = rankings(nano, mode, many, 16)
    assert len({order for order, _ in together}) > 3
    for size in (1, 2, 7):
        assert rankings(nano, mode, many, size) == together
    assert rankings(nano, mode, many[::-1], 7)[::-1] == together


@pytest.mark.parametrize("mode", SCORED)
def test_scores_are_rounded_so_that_batches_agree(nano, questions, mode):
    together = run_batch(nano, RankingMode(mode), questions)
    for question, answer in zip(questions, together, strict=True):
        (alone,) = run_batch(nano, RankingMode(mode), [question])
        assert answer.scores == pytest.approx(alone.scores, abs=1.1e-3)
        assert all(score == round(score, 3) for score in answer.scores)


@pytest.mark.parametrize("mode", MODES)
def test_answers_do_not_depend_on_the_names_order(nano, questions, mode):
    turned = [replace(question, names=question.names[::-1]) for question in questions]
    for one, other in zip(
        run_batch(nano, RankingMode(mode), questions), run_batch(nano, RankingMode(mode), turned), strict=True
    ):
        assert one.scores == pytest.approx(other.scores[::-1], abs=1.1e-3)
        assert one.reply == other.reply


def test_a_likelihood_does_not_depend_on_the_other_names(nano, questions):
    (whole,) = run_batch(nano, RankingMode("likelihood"), questions[:1])
    (part,) = run_batch(nano, RankingMode("likelihood"), [replace(questions[0], names=questions[0].names[1:3])])
    assert part.scores == pytest.approx(whole.scores[1:3], abs=1.1e-3)


def test_answers_depend_on_the_picture(nano, questions):
    other = replace(questions[0], image=questions[1].image)
    for mode in SCORED:
        one, two = (run_batch(nano, RankingMode(mode), [question])[0].scores for question in (questions[0], other))
        assert one != pytest.approx(two, abs=0.01)


def test_more_candidates_than_letters_are_refused_by_letters_and_ranked_by_the_others(nano, questions):
    names = tuple(f"azure, a bend or, {n} mullets argent" for n in range(30))
    question = replace(questions[0], names=names)
    with pytest.raises(UserError, match="30 candidates, but mode letters has 26 letters; rank fewer, or by likelihood"):
        run_batch(nano, RankingMode("letters"), [question])
    (answer,) = run_batch(nano, RankingMode("likelihood"), [question])
    assert len(answer.scores) == 30
    (answer,) = run_batch(nano, RankingMode("generate"), [question])
    assert sorted(to_ranking("generate", names, question, answer).order) == list(range(30))


@pytest.mark.parametrize("mode", MODES)
def test_one_candidate_is_a_ranking_of_one(nano, questions, mode):
    question = replace(questions[0], names=questions[0].names[:1])
    (answer,) = run_batch(nano, RankingMode(mode), [question])
    assert to_ranking(mode, question.names, question, answer).order == (0,)


@pytest.mark.parametrize("mode", ["letters", "constrained", "generate"])
def test_examples_are_seen_and_may_stand_beside_questions_without(nano, questions, mode):
    shown = replace(questions[0], examples=tuple(q.image for q in questions))
    other = replace(questions[0], examples=tuple(q.image for q in questions[::-1]))
    bare, one, two = run_batch(nano, RankingMode(mode), [questions[0], shown, other])
    assert bare == run_batch(nano, RankingMode(mode), [questions[0]])[0]
    if mode == "letters":
        assert one.scores != pytest.approx(bare.scores, abs=0.01)
        assert one.scores != pytest.approx(two.scores, abs=0.01)
    else:
        assert sorted(to_ranking(mode, shown.names, shown, one).order) == list(range(len(shown.names)))


def test_the_structured_prompt_is_asked_where_it_is_wanted(nano, questions, monkeypatch):
    prompts = []
    inputs = nano.inputs
    monkeypatch.setattr(nano, "inputs", lambda images, asked: prompts.extend(asked) or inputs(images, asked))
    for structured in (False, True):
        run_batch(nano, RankingMode("generate", structured), questions[:1])
    names = questions[0].shown_names
    assert prompts == [list_prompt(names), list_prompt(names, structured=True)]


def test_a_reply_may_be_given_more_or_fewer_tokens(nano, questions):
    short, usual = (
        run_batch(nano, RankingMode("generate", False, tokens), questions[:1])[0].reply for tokens in (5, 0)
    )
    assert len(short) < len(usual) and usual.startswith(short)


def test_a_missing_image_is_named(nano, questions, tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: no such image"):
        run_batch(
            nano, RankingMode("likelihood"), [questions[0], replace(questions[1], image=str(tmp_path / "gone.png"))]
        )
