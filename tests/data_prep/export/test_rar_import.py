"""RAR's native JSON is imported as it was exported, and records that are not ranking examples are counted."""

from __future__ import annotations

import json

import pytest

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.export.rar_import import import_rar
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
    assert import_rar(folder / "rar.json", folder, tmp_path / "in") == {"imported": 3}
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
        import_rar(folder / "rar.json", folder, tmp_path / "in")


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
    counts = import_rar(folder / "some.json", folder, tmp_path / "in")
    assert counts == {
        "imported": 1,
        "dropped: the image is missing": 1,
        "dropped: not one image and two turns": 2,
        "dropped: the prompt lists no categories": 1,
        "dropped: a list of names does not parse": 1,
        "dropped: the answer's first name is no candidate": 1,
    }
    assert "record 1: the image is missing" in caplog.text
    (folder / "none.json").write_text(json.dumps(records[1:]))
    with pytest.raises(UserError, match=r"none\.json: no record is a ranking example"):
        import_rar(folder / "none.json", folder, tmp_path / "none")
    (folder / "object.json").write_text("{}")
    with pytest.raises(UserError, match="must be a JSON list"):
        import_rar(folder / "object.json", folder, tmp_path / "none")
