"""Exports are imported as they were exported, and records that are not ranking examples are counted."""

from __future__ import annotations

import json

import pytest

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.export.formats import FORMATS
from data_prep.export.importing import import_examples
from data_prep.export.writing import export
from data_prep.leakage.contamination import read_mined
from data_prep.mining.shards import ShardedExamples, write_shards
from data_prep.prompting.targets import target_names

NAMES = ["Boeing 737-200", "l'avion", 'the "Rock"', "a, b [c]"]


@pytest.fixture
def exported(tmp_path, draw_picture):
    """An export of three examples, and the examples."""
    pairs = []
    for n in range(3):
        candidates = tuple(Candidate((n + i) % 4, NAMES[(n + i) % 4], 1 - i / 10) for i in range(3))
        path = draw_picture(tmp_path / f"{n}.png", n)
        pairs.append((RankingExample(f"key{n}", (n + 1) % 4, candidates), Sample("", str(path), 0, f"d{n}")))
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", pairs, 9, {"part": "train", "dataset": "planes"})
    export(tmp_path / "shards", tmp_path / "out", "rar", order="retriever")
    return tmp_path / "out", [example for example, _ in pairs]


def test_an_imported_export_equals_the_original(exported, tmp_path):
    folder, examples = exported
    assert import_examples("rar", folder / "rar.json", folder, tmp_path / "in") == {"imported": 3}
    sharded = ShardedExamples(tmp_path / "in")
    assert sharded.manifest["classes"] == 4
    for number, example in enumerate(examples):
        imported, image = sharded[number]
        assert [c.name for c in imported.candidates] == [c.name for c in example.candidates]
        assert target_names(imported, "truth_first") == target_names(example, "truth_first")
        assert sorted(NAMES)[imported.label] == NAMES[example.label]
        assert image.size == (24, 24)
    assert len(read_mined(tmp_path / "in")) == 3
    with pytest.raises(UserError, match="exists; choose another folder"):
        import_examples("rar", folder / "rar.json", folder, tmp_path / "in")


def test_records_that_are_not_ranking_examples_are_counted_by_reason_and_logged(exported, tmp_path, caplog):
    folder, _ = exported
    good = json.loads((folder / "rar.json").read_text())[0]
    user, assistant = good["conversations"]

    def changed(**changes):
        return good | changes

    records = [
        good,
        changed(image=["nowhere.png"]),
        changed(image=["a.png", "b.png"]),
        changed(conversations=[user | {"value": "Are these <image> the same?"}, assistant]),
        changed(conversations=[user, assistant | {"value": "['a', 'b'"}]),
        changed(conversations=[user, assistant | {"value": "['stranger']"}]),
        {"id": 3},
    ]
    (folder / "some.json").write_text(json.dumps(records))
    counts = import_examples("rar", folder / "some.json", folder, tmp_path / "in")
    assert counts == {
        "imported": 1,
        "dropped: the image is missing": 1,
        "dropped: not one image with the columns of the format": 2,
        "dropped: the prompt lists no categories": 1,
        "dropped: a list of names does not parse": 1,
        "dropped: the answer's first name is no candidate": 1,
    }
    assert "record 1: the image is missing" in caplog.text
    (folder / "none.json").write_text(json.dumps(records[1:]))
    with pytest.raises(UserError, match=r"none\.json: no record is a ranking example"):
        import_examples("rar", folder / "none.json", folder, tmp_path / "none")
    (folder / "object.json").write_text("{}")
    with pytest.raises(UserError, match="must be a JSON list"):
        import_examples("rar", folder / "object.json", folder, tmp_path / "none")


def as_sets(folder) -> list[tuple[set[str], str]]:
    """Returns names and true name of each example of a folder of shards."""
    examples = ShardedExamples(folder).examples()
    return [({c.name for c in e.candidates}, e.candidates[e.truth].name) for e in examples]


@pytest.mark.parametrize(
    ("format_name", "keeps_order"),
    [
        ("rar", True),
        ("swift_reranker", False),
        ("swift_grpo", True),
        ("trl_grpo", True),
        ("trl_dpo", False),
        ("sentence_transformers", True),
    ],
)
def test_every_imported_format_gives_the_exported_examples(exported, tmp_path, format_name, keeps_order):
    _, examples = exported
    folder = tmp_path / format_name
    export(tmp_path / "shards", folder, format_name, order="retriever")
    assert import_examples(format_name, folder / FORMATS[format_name].FILE, folder, tmp_path / "in") == {"imported": 3}
    assert as_sets(tmp_path / "in") == as_sets(tmp_path / "shards")
    if keeps_order:
        for imported, example in zip(ShardedExamples(tmp_path / "in").examples(), examples, strict=True):
            assert [c.name for c in imported.candidates] == [c.name for c in example.candidates]


def test_where_a_file_puts_the_right_document_first_the_candidates_are_shuffled(tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png", 1)
    record = {
        "messages": [{"role": "user", "content": "<image>"}],
        "images": [{"path": "a.png"}],
        "positive_messages": [[{"role": "assistant", "content": "right"}]],
        "negative_messages": [[{"role": "assistant", "content": f"wrong {n}"}] for n in range(4)],
    }
    (tmp_path / "set.jsonl").write_text(f"{json.dumps(record)}\n" * 20)
    assert import_examples("swift_reranker", tmp_path / "set.jsonl", tmp_path, tmp_path / "in") == {"imported": 20}
    places = {example.truth for example in ShardedExamples(tmp_path / "in").examples()}
    assert len(places) > 2


def test_a_record_with_several_right_documents_gives_an_example_for_each(tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png", 1)
    record = {"image": "a.png", "docs": ["x", "cat", "kitten", "y"], "labels": [0, 1, 1, 0]}
    (tmp_path / "set.jsonl").write_text(json.dumps(record))
    counts = import_examples("sentence_transformers", tmp_path / "set.jsonl", tmp_path, tmp_path / "in")
    assert counts == {"imported": 2}
    assert as_sets(tmp_path / "in") == [({"x", "cat", "y"}, "cat"), ({"x", "kitten", "y"}, "kitten")]


def test_records_of_other_kinds_are_counted_by_reason(tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png", 1)
    good = {"prompt": [], "images": ["a.png"], "solution": "cat", "candidates": ["cat", "dog"]}
    text = {"prompt": [], "images": ["a.png"], "chosen": "a long story", "rejected": "a short one"}
    records = [good, good | {"solution": "cow"}, good | {"candidates": "cat, dog"}, text, []]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, records)))
    counts = import_examples("trl_grpo", tmp_path / "set.jsonl", tmp_path, tmp_path / "in")
    assert counts == {
        "imported": 1,
        "dropped: the solution is no candidate": 1,
        "dropped: a list of names does not parse": 1,
        "dropped: not one image with the columns of the format": 2,
    }
    with pytest.raises(UserError, match="a list of names does not parse"):
        import_examples("trl_dpo", tmp_path / "set.jsonl", tmp_path, tmp_path / "none")
    (tmp_path / "cut.jsonl").write_text('{"images": \n')
    with pytest.raises(UserError, match=r"cut\.jsonl, line 1: not JSON .*; give a record per line"):
        import_examples("trl_grpo", tmp_path / "cut.jsonl", tmp_path, tmp_path / "none")
