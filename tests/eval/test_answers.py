"""Answers survive a kill, to the last byte, are not asked for twice, and do not depend on the processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.settings import MODES, RankerArgs, TrainerArgs
from eval.answers import Job, answer_all
from eval.modes import ask
from eval.questions import Manner

CPU = TrainerArgs(accelerator="cpu")


def answered(questions, folder: Path, mode="letters", size=2, trainer=CPU, ranker=None, adapter="nowhere"):
    job = Job("one", False, Manner(mode), questions, size)
    return answer_all([job], ranker or RankerArgs(), Path(adapter), trainer, folder)["one"]


def test_answers_are_those_of_asking_one_a_line_in_the_questions_order(nano, questions, tmp_path):
    answers = answered(questions, tmp_path / "new", size=len(questions))
    assert list(answers.values()) == ask(nano, Manner("letters"), questions)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["answers-one.jsonl"]
    records = [json.loads(line) for line in (tmp_path / "new" / "answers-one.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == [question.id for question in questions] == list(answers)
    assert [tuple(record["scores"]) for record in records] == [answer.scores for answer in answers.values()]


def cut(path: Path, lines: int, characters: int) -> None:
    """Leaves so many whole lines and so many characters of the next, as a kill does."""
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:lines]) + text[lines][:characters])


@pytest.mark.parametrize(("mode", "lines", "characters"), [(m, 1, 20) for m in MODES] + [("letters", 0, 20)])
def test_a_killed_evaluation_ends_with_the_same_bytes(questions, mode, lines, characters, tmp_path):
    path = tmp_path / "answers-one.jsonl"
    whole_answers = answered(questions, tmp_path, mode)
    whole = path.read_bytes()
    # Killed while two processes wrote: one into the first part, one into the second.
    path.rename(tmp_path / "answers-one.part-0.jsonl")
    (tmp_path / "answers-one.part-1.jsonl").write_bytes(whole[: len(whole) // 3])
    cut(tmp_path / "answers-one.part-0.jsonl", lines, characters)
    assert answered(questions, tmp_path, mode) == whole_answers
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == whole


def test_what_the_file_holds_is_not_asked_again(questions, tmp_path):
    answers = answered(questions, tmp_path)
    nothing = RankerArgs(model=str(tmp_path / "no-model"))
    assert answered(questions, tmp_path, ranker=nothing) == answers


def test_two_processes_give_the_same_bytes_and_name_a_missing_image(questions, many, tmp_path):
    answered(many, tmp_path / "one")
    two = replace(CPU, devices=2)
    lost = replace(many[-1], image=str(tmp_path / "lost.png"))
    with pytest.raises(UserError, match=r"lost\.png: no such image"):
        answered([*many[:-1], lost], tmp_path / "two", trainer=two)
    assert list((tmp_path / "two").glob("answers-one.part-*.jsonl")), "answers before the error are lost"
    answered(many, tmp_path / "two", trainer=two)
    one, other = ((tmp_path / name / "answers-one.jsonl").read_bytes() for name in ("one", "two"))
    assert one == other
