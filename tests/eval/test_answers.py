"""Answers survive a kill, to the last byte, and are not asked for twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.settings import MODES
from eval.answers import answer_all, question_id
from eval.ranking import ask


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def test_answers_are_written_one_a_line_in_the_questions_order(nano, questions, tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    answers = answer_all(nano, "letters", questions, 2, path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["id"] for record in records] == [question_id(question) for question in questions] == list(answers)
    assert [tuple(record["scores"]) for record in records] == [answer.scores for answer in answers.values()]


def test_answers_are_those_of_asking(nano, questions, mode, tmp_path):
    answers = answer_all(nano, mode, questions, len(questions), tmp_path / "answers.jsonl")
    assert list(answers.values()) == ask(nano, mode, questions)


def cut(path: Path, lines: int, characters: int) -> None:
    """Leaves so many whole lines and so many characters of the next, as a kill does."""
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:lines]) + text[lines][:characters])


@pytest.mark.parametrize(("lines", "characters"), [(1, 0), (1, 20), (2, 0), (3, 1), (4, 40)])
def test_a_killed_evaluation_ends_with_the_same_bytes(nano, questions, mode, tmp_path, lines, characters):
    path = tmp_path / "answers.jsonl"
    whole_answers = answer_all(nano, mode, questions, 2, path)
    whole = path.read_bytes()
    cut(path, lines, characters)
    assert answer_all(nano, mode, questions, 2, path) == whole_answers
    assert path.read_bytes() == whole


def test_a_kill_within_the_first_line_leaves_a_file_that_can_be_gone_on_with(nano, questions, tmp_path):
    path = tmp_path / "answers.jsonl"
    whole_answers = answer_all(nano, "letters", questions, 2, path)
    whole = path.read_bytes()
    cut(path, 0, 20)
    answer_all(nano, "letters", questions, 2, path)
    assert path.read_bytes() == whole
    assert answer_all(nano, "letters", questions, 2, path) == whole_answers


def test_what_the_file_holds_is_not_asked_again(nano, questions, tmp_path):
    path = tmp_path / "answers.jsonl"
    answers = answer_all(nano, "letters", questions, 2, path)
    assert answer_all(None, "letters", questions, 2, path) == answers  # without a model


def test_ids_tell_images_and_names_apart_but_not_paths(questions):
    one = questions[0]
    assert question_id(replace(one, path="moved.png")) == question_id(one)
    others = [replace(one, key="other"), replace(one, names=one.names[::-1]), replace(one, names=one.names[1:])]
    assert len({question_id(question) for question in [one, *others]}) == 4
