"""Sets for rerankers, rewards and preferences: what is right, what is wrong, and in which order."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.records import SpecialLabel
from data_prep.export.formats import FORMATS, JUDGED
from data_prep.export.judged import rejected_answer
from data_prep.export.writing import check_export, export
from data_prep.mining.shards import ShardedExamples, write_parts
from data_prep.prompting.replies import read_list


def read(folder, name: str) -> list[dict]:
    """Reads the records of an export."""
    return [json.loads(line) for line in (folder / FORMATS[name].FILE).read_text().splitlines()]


def true_name(example) -> str:
    return example.candidates[example.truth].name


@pytest.mark.parametrize("name", ["swift_reranker", "sentence_transformers", "sentence_transformers_pairs"])
def test_reranker_sets_have_the_right_name_and_the_wrong_ones_in_retriever_order(shards, tmp_path, name):
    assert export(shards, tmp_path / "out", name) == {"exported": 9}
    records = list(FORMATS[name].read(tmp_path / "out"))
    for record, example in zip(records, ShardedExamples(shards).examples(), strict=True):
        names = [candidate.name for candidate in example.candidates]
        assert list(record.right) == [true_name(example)]
        assert list(record.wrong) == [other for other in names if other != true_name(example)]


def test_records_have_the_columns_that_their_trainers_document(shards, tmp_path):
    columns = {}
    for name in JUDGED:
        export(shards, tmp_path / name, name)
        columns[name] = set(read(tmp_path / name, name)[0])
    assert columns == {
        "swift_reranker": {"messages", "images", "positive_messages", "negative_messages"},
        "swift_grpo": {"messages", "images", "solution", "candidates"},
        "trl_grpo": {"prompt", "images_file_names", "solution", "candidates"},
        "trl_dpo": {"prompt", "chosen", "rejected", "images_file_names"},
        "sentence_transformers": {"image_file_name", "docs", "labels"},
        "sentence_transformers_pairs": {"image_file_name", "document", "label"},
    }
    (query,) = read(tmp_path / "swift_reranker", "swift_reranker")[0]["messages"]
    assert query == {"role": "user", "content": "<image>"}
    assert len(read(tmp_path / "sentence_transformers_pairs", "sentence_transformers_pairs")) == 9 * 5


@pytest.mark.parametrize("name", ["swift_grpo", "trl_grpo"])
def test_a_reward_set_has_the_solution_and_the_candidates_as_shown(shards, tmp_path, name):
    export(shards, tmp_path / "out", name)
    for record, example in zip(read(tmp_path / "out", name), ShardedExamples(shards).examples(), strict=True):
        assert record["solution"] == true_name(example)
        (user,) = record["prompt" if name == "trl_grpo" else "messages"]
        assert str(record["candidates"]) in user["content"]
        assert user["content"].startswith("<image>") == (name == "swift_grpo")


@pytest.mark.parametrize("target", ["truth_first", "truth_only", "graded"])
def test_a_rejected_list_begins_with_the_retrievers_first_wrong_candidate(shards, tmp_path, target):
    export(shards, tmp_path / "out", "trl_dpo", target)
    for record, example in zip(read(tmp_path / "out", "trl_dpo"), ShardedExamples(shards).examples(), strict=True):
        names = [candidate.name for candidate in example.candidates]
        chosen, rejected = (read_list(record[key][0]["content"], names) for key in ("chosen", "rejected"))
        assert names[chosen.order[0]] == true_name(example)
        assert names[rejected.order[0]] == next(name for name in names if name != true_name(example))
        assert chosen.outcome == rejected.outcome == ("repaired" if target == "truth_only" else "ok")


@given(st.permutations("abcde"), st.integers(0, 4), st.integers(1, 5))
def test_a_rejected_list_has_the_length_of_the_preferred_one(retrieved, truth, length):
    right = retrieved[truth]
    preferred = [right, *(name for name in retrieved if name != right)][:length]
    rejected = read_list(rejected_answer(preferred, [(name, name == right) for name in retrieved]), retrieved)
    wrong_first = next(name for name in retrieved if name != right)
    written = json.loads(rejected.reply.replace("'", '"'))
    assert len(written) == length == len(set(written)) and written[0] == wrong_first != right


def test_examples_without_a_right_or_a_wrong_candidate_are_counted(shards, tmp_path):
    first, second, third, *_ = ShardedExamples(shards).examples()
    lacks_right = replace(first, label=SpecialLabel.UNLABELLED)
    lacks_wrong = replace(second, candidates=(second.candidates[second.truth],) * 2)
    data = next((tmp_path / "images").iterdir()).read_bytes()
    (tmp_path / "few").mkdir()
    parts = [(example, "png", data) for example in (lacks_right, lacks_wrong, third)]
    write_parts(tmp_path / "few", parts, 9, {"part": "train", "dataset": "pets", "counts": {}})
    counts = export(tmp_path / "few", tmp_path / "out", "swift_reranker", "graded")
    assert counts == {"dropped: no right answer": 1, "dropped: no wrong candidate": 1, "exported": 1}


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("swift_reranker", '"<image>"', '"<image><image>"', "2 image tags"),
        ("sentence_transformers", '"labels": [1, 0', '"labels": [0, 1', "documents that differ"),
        ("trl_grpo", '"solution": "', '"solution": "another ', "a solution or candidates that differ"),
        ("trl_dpo", '"rejected"', '"passed"', "rejected"),
    ],
)
def test_a_damaged_export_is_noticed(shards, tmp_path, name, old, new, message, monkeypatch):
    kept = []
    monkeypatch.setattr("data_prep.export.writing.check_export", lambda *given: kept.append(given))
    export(shards, tmp_path / "out", name)
    path = tmp_path / "out" / FORMATS[name].FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises((UserError, KeyError), match=message):
        check_export(tmp_path / "out", name, kept[0][2])
