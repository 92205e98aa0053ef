"""Answers survive a kill, to the last byte, are not asked for twice, and do not depend on the processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, write_json
from data_prep.settings import MODES, RankerArgs, TrainerArgs
from eval.ranking.inference import InferenceJob, answer_all, append_answers
from eval.ranking.modes import run_batch
from eval.ranking.request import RankingMode

CPU = TrainerArgs(accelerator="cpu")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """What of an adapter the answers of the base model need: the names of both."""
    folder = tmp_path_factory.mktemp("adapter")
    write_json(folder / "manifest.json", {"base_model": "llava", "adapter": "none"})
    write_json(folder / "adapter_config.json", {})
    return folder


@pytest.fixture
def answered(adapter):
    def answered(questions, out: Path, mode="letters", size=2, trainer=CPU):
        job = InferenceJob("one", False, RankingMode(mode), questions, size)
        return answer_all([job], RankerArgs(), adapter, trainer, out)["one"]

    return answered


def answers_in(out: Path) -> Path:
    """The one folder of answers."""
    (folder,) = out.glob("answers-*")
    return folder


def test_answers_are_those_of_asking_one_a_line_in_the_questions_order(nano, questions, answered, tmp_path):
    answers = answered(questions, tmp_path, size=len(questions))
    assert list(answers.values()) == run_batch(nano, RankingMode("letters"), questions)
    assert [path.name for path in answers_in(tmp_path).iterdir()] == ["answers-one.jsonl"]
    lines = (answers_in(tmp_path) / "answers-one.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["id"] for record in records] == [question.id for question in questions] == list(answers)
    assert [tuple(record["scores"]) for record in records] == [answer.scores for answer in answers.values()]


def cut(path: Path, lines: int, characters: int) -> None:
    """Leaves so many whole lines and so many characters of the next, as a kill does."""
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:lines]) + text[lines][:characters])


@pytest.mark.parametrize(("mode", "lines", "characters"), [(m, 1, 20) for m in MODES] + [("letters", 0, 20)])
def test_a_killed_evaluation_ends_with_the_same_bytes(questions, answered, mode, lines, characters, tmp_path):
    whole_answers = answered(questions, tmp_path, mode)
    folder = answers_in(tmp_path)
    path = folder / "answers-one.jsonl"
    whole = path.read_bytes()
    # Killed while two processes wrote: one into the first part, one into the second.
    path.rename(folder / "answers-one.part-0.jsonl")
    (folder / "answers-one.part-1.jsonl").write_bytes(whole[: len(whole) // 3])
    cut(folder / "answers-one.part-0.jsonl", lines, characters)
    assert answered(questions, tmp_path, mode) == whole_answers
    assert [file.name for file in folder.iterdir()] == [path.name]
    assert path.read_bytes() == whole


def test_what_the_file_holds_is_not_asked_again(questions, answered, tmp_path, monkeypatch):
    answers = answered(questions, tmp_path)
    monkeypatch.setattr("eval.ranking.inference.load_mllm", None)
    assert answered(questions, tmp_path) == answers


def test_a_changed_picture_is_asked_about_again_with_its_whole_batch_and_as_if_nothing_had_been_there(
    questions, answered, tmp_path
):
    known = [replace(question, contents=(file_hash(Path(question.image)),)) for question in questions]
    before = answered(known, tmp_path / "one")
    # As a picture replaced under its own name: another content, and here the path that holds it.
    changed = [*known[:3], replace(known[3], image=known[0].image, contents=known[0].contents), known[4]]
    after = answered(changed, tmp_path / "one")
    assert after == answered(changed, tmp_path / "fresh")
    assert after[changed[3].id] != before[known[3].id]
    lines = (answers_in(tmp_path / "one") / "answers-one.jsonl").read_text().splitlines()
    assert len(lines) == len(questions) + 2  # the batch of two; what it was before stays
    assert answered(known, tmp_path / "one") == before


@pytest.mark.parametrize("what", ["digit", "cut", "byte"])
def test_a_damaged_line_is_named_and_deleting_the_file_leads_back_to_the_same_bytes(
    questions, answered, tmp_path, what
):
    answered(questions, tmp_path)
    path = answers_in(tmp_path) / "answers-one.jsonl"
    whole = path.read_bytes()
    first, rest = whole.split(b"\n", 1)
    record = json.loads(first)
    damaged = {
        "digit": json.dumps(record | {"scores": record["scores"][::-1]}).encode(),
        "cut": first[:-20],
        "byte": b"\xff" + first[1:],
    }[what]
    path.write_bytes(damaged + b"\n" + rest)
    with pytest.raises(UserError, match=r"answers-one\.jsonl, line 1: damaged .*; delete it to have it made again"):
        answered(questions, tmp_path)
    path.unlink()
    answered(questions, tmp_path)
    assert path.read_bytes() == whole


def test_a_full_disk_and_a_folder_taken_away_are_named_with_what_goes_on(tmp_path):
    full = tmp_path / "answers-one.part-0.jsonl"
    full.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"part-0\.jsonl: not writable \(No space left .* the same command goes on"):
        append_answers(full, ["{}\n"])
    with pytest.raises(UserError, match=r"gone/answers\.jsonl: not writable \(No such file"):
        append_answers(tmp_path / "gone" / "answers.jsonl", ["{}\n"])


def test_a_folder_that_cannot_be_made_is_named(questions, answered, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"out/answers-\w+: not writable \((Not a directory|File exists)"):
        answered(questions, tmp_path / "out")


def test_two_processes_give_the_same_bytes_and_name_a_missing_image(questions, many, answered, tmp_path):
    answered(many, tmp_path / "one")
    two = replace(CPU, devices=2)
    lost = replace(many[-1], image=str(tmp_path / "lost.png"))
    with pytest.raises(UserError, match=r"lost\.png: no such image"):
        answered([*many[:-1], lost], tmp_path / "two", trainer=two)
    assert list(answers_in(tmp_path / "two").glob("answers-one.part-*.jsonl")), "answers before the error are lost"
    answered(many, tmp_path / "two", trainer=two)
    one, other = ((answers_in(tmp_path / name) / "answers-one.jsonl").read_bytes() for name in ("one", "two"))
    assert one == other
