"""Resumable inference: answers survive a kill byte for byte, are not computed twice, and not changed by processes.

Nor do they depend on the workers that prepare batches, or on how requests about an image are spread over groups.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, write_json
from data_prep.settings import MODES, RankerArgs, TrainerArgs
from eval.ranking.answers import append_lines
from eval.ranking.batches import InferenceJob, RequestTable
from eval.ranking.modes import run_batch
from eval.ranking.rank import answer_all
from eval.ranking.request import RankingMode, shuffled_requests

CPU = TrainerArgs(accelerator="cpu")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """The parts of an adapter that the base model's answers need: its manifest and configuration."""
    folder = tmp_path_factory.mktemp("adapter")
    write_json(folder / "manifest.json", {"base_model": "llava", "adapter": "none"})
    write_json(folder / "adapter_config.json", {})
    return folder


@pytest.fixture
def run_job(adapter):
    def run_job(requests, out: Path, mode="letters", size=2, trainer=CPU):
        job = InferenceJob("one", False, RankingMode(mode), RequestTable([[request] for request in requests]), size)
        return answer_all([job], RankerArgs(), adapter, trainer, out)["one"]

    return run_job


def answers_folder(out: Path) -> Path:
    """Returns the only folder of answers."""
    (folder,) = out.glob("answers-*")
    return folder


def test_there_is_one_answer_per_line_in_the_order_of_the_requests(nano, requests, run_job, tmp_path):
    answers = run_job(requests, tmp_path, size=len(requests))
    assert list(answers.values()) == run_batch(nano, RankingMode("letters"), requests)
    assert [path.name for path in answers_folder(tmp_path).iterdir()] == ["answers-one.jsonl"]
    lines = (answers_folder(tmp_path) / "answers-one.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["id"] for record in records] == [request.id for request in requests] == list(answers)
    assert [tuple(record["scores"]) for record in records] == [answer.scores for answer in answers.values()]


def cut(path: Path, lines: int, characters: int) -> None:
    """Leaves a number of complete lines and some characters of the next, as a kill does."""
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:lines]) + text[lines][:characters])


@pytest.mark.parametrize(("mode", "lines", "characters"), [(m, 1, 20) for m in MODES] + [("letters", 0, 20)])
def test_a_killed_evaluation_ends_with_the_same_bytes(requests, run_job, mode, lines, characters, tmp_path):
    expected_answers = run_job(requests, tmp_path, mode)
    folder = answers_folder(tmp_path)
    path = folder / "answers-one.jsonl"
    whole = path.read_bytes()
    # Killed while two processes wrote: one into the first part, one into the second.
    path.rename(folder / "answers-one.part-0.jsonl")
    (folder / "answers-one.part-1.jsonl").write_bytes(whole[: len(whole) // 3])
    cut(folder / "answers-one.part-0.jsonl", lines, characters)
    assert run_job(requests, tmp_path, mode) == expected_answers
    assert [file.name for file in folder.iterdir()] == [path.name]
    assert path.read_bytes() == whole


def test_answers_on_disk_are_not_computed_again(requests, run_job, tmp_path, monkeypatch):
    answers = run_job(requests, tmp_path)
    monkeypatch.setattr("eval.ranking.inference.load_mllm", None)
    assert run_job(requests, tmp_path) == answers


def test_a_changed_image_is_ranked_again_with_its_full_batch_as_if_there_were_no_answers(requests, run_job, tmp_path):
    known = [replace(request, contents=(file_hash(Path(request.image)),)) for request in requests]
    before = run_job(known, tmp_path / "one")
    # Like an image that was replaced under its own name: other content, and here another path.
    changed = [*known[:3], replace(known[3], image=known[0].image, contents=known[0].contents), known[4]]
    after = run_job(changed, tmp_path / "one")
    assert after == run_job(changed, tmp_path / "fresh")
    assert after[changed[3].id] != before[known[3].id]
    lines = (answers_folder(tmp_path / "one") / "answers-one.jsonl").read_text().splitlines()
    assert len(lines) == len(requests) + 2  # the batch of two; the old answers are kept
    assert run_job(known, tmp_path / "one") == before


@pytest.mark.parametrize("kind", ["digit", "cut", "byte"])
def test_a_damaged_line_is_named_and_deleting_the_file_recreates_the_same_bytes(requests, run_job, tmp_path, kind):
    run_job(requests, tmp_path)
    path = answers_folder(tmp_path) / "answers-one.jsonl"
    whole = path.read_bytes()
    first, rest = whole.split(b"\n", 1)
    record = json.loads(first)
    damaged = {
        "digit": json.dumps(record | {"scores": record["scores"][::-1]}).encode(),
        "cut": first[:-20],
        "byte": b"\xff" + first[1:],
    }[kind]
    path.write_bytes(damaged + b"\n" + rest)
    with pytest.raises(UserError, match=r"answers-one\.jsonl, line 1: damaged .*; delete it to have it made again"):
        run_job(requests, tmp_path)
    path.unlink()
    run_job(requests, tmp_path)
    assert path.read_bytes() == whole


def test_a_full_disk_and_a_removed_folder_are_named_with_how_to_go_on(tmp_path):
    full = tmp_path / "answers-one.part-0.jsonl"
    full.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"part-0\.jsonl: not writable \(No space left .* the same command resumes"):
        append_lines(full, ["{}\n"])
    with pytest.raises(UserError, match=r"gone/answers\.jsonl: not writable \(No such file"):
        append_lines(tmp_path / "gone" / "answers.jsonl", ["{}\n"])


def test_a_folder_that_cannot_be_created_is_named(requests, run_job, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"out/answers-\w+: not writable \((Not a directory|File exists)"):
        run_job(requests, tmp_path / "out")


def test_two_processes_with_a_worker_each_give_the_same_bytes_and_name_a_missing_image(
    requests, many, run_job, tmp_path
):
    run_job(many, tmp_path / "one")
    two = replace(CPU, devices=2, num_workers=1)
    lost = replace(many[-1], image=str(tmp_path / "lost.png"))
    with pytest.raises(UserError) as error:
        run_job([*many[:-1], lost], tmp_path / "two", trainer=two)
    assert str(error.value) == f"{lost.image}: no such image"
    assert list(answers_folder(tmp_path / "two").glob("answers-one.part-*.jsonl")), "answers before the error are lost"
    run_job(many, tmp_path / "two", trainer=two)
    one, other = ((answers_folder(tmp_path / name) / "answers-one.jsonl").read_bytes() for name in ("one", "two"))
    assert one == other


def test_workers_change_no_byte_and_keep_the_answers_before_a_missing_image(many, run_job, tmp_path):
    run_job(many, tmp_path / "none")
    workers = replace(CPU, num_workers=2)
    lost = replace(many[-1], image=str(tmp_path / "lost.png"))
    with pytest.raises(UserError) as error:
        run_job([*many[:-1], lost], tmp_path / "workers", trainer=workers)
    assert str(error.value) == f"{lost.image}: no such image"
    (part,) = answers_folder(tmp_path / "workers").glob("answers-one.part-*.jsonl")
    assert len(part.read_text().splitlines()) == len(many) - 2  # all batches but the last
    run_job(many, tmp_path / "workers", trainer=workers)
    none, other = ((answers_folder(tmp_path / name) / "answers-one.jsonl").read_bytes() for name in ("none", "workers"))
    assert none == other


def test_scores_do_not_depend_on_the_batch_size_or_on_what_else_is_asked_about_an_image(
    many, adapter, run_job, tmp_path
):
    alone = run_job(many, tmp_path / "alone", size=1)
    # As an evaluation asks: every image in two orders under one memory, and then with fewer names under another.
    groups = [shuffled_requests(request, 2) for request in many]
    groups += [[request, replace(request, names=request.names[:2])] for request in many]
    job = InferenceJob("one", False, RankingMode("letters"), RequestTable(groups), 5)
    answers = answer_all([job], RankerArgs(), adapter, CPU, tmp_path / "groups")["one"]
    assert set(answers) == {request.id for group in groups for request in group}
    for request in many:
        assert answers[request.id].scores == pytest.approx(alone[request.id].scores, abs=1.1e-3)
