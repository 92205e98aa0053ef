"""Names are read from files of any supported format."""

from __future__ import annotations

import json

import pytest

from data_prep.core.errors import UserError
from data_prep.reading.name_files import read_vocabulary
from eval.discover.predictions import names_lines

FILES = {
    "names.txt": "Blue Jay\nOwl\n\nblue jay\n",
    "names.json": json.dumps(["Blue Jay", "Owl", "blue jay"]),
    # FiNDR's data/guessed_classnames: by image, with more keys than are read; an image may have no guess.
    "birds_qwen.json": json.dumps(
        {
            "1.jay/a.jpg": {"guessed_classnames": {"1": "Blue Jay"}, "image_id": 0, "model_main_success": True},
            "1.jay/b.jpg": {"guessed_classnames": {"1": "blue jay", "2": "Owl"}, "image_id": 1},
            "2.owl/c.jpg": {"guessed_classnames": {}, "image_id": 2, "model_main_success": False},
        }
    ),
    "names.csv": 'votes,name\n2,Blue Jay\n1,"Owl"\n1,blue jay\n',
    "names.jsonl": '{"name": "Blue Jay", "votes": 2}\n{"name": "Owl"}\n{"name": "blue jay"}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_names_are_read_and_spellings_merged(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    assert read_vocabulary(tmp_path / name) == {"Blue Jay": 2, "Owl": 1}


def test_the_names_of_e_finers_sentences_are_its_keys(tmp_path):
    path = tmp_path / "pets_guessed_100.json"
    path.write_text(json.dumps({"Siamese": ["Siamese has blue eyes", "Siamese purrs"], "Boxer": ["Boxer snores"]}))
    assert read_vocabulary(path) == {"Boxer": 1, "Siamese": 1}


def test_written_names_are_read_back_with_most_votes_first(tmp_path):
    records = names_lines({"crow": 1, "owl": 3}, {"crow": 2, "owl": 4, "kite": 1}, 7)
    assert records == [
        {"name": "owl", "votes": 3, "guessed": 4, "seed": 7},
        {"name": "crow", "votes": 1, "guessed": 2, "seed": 7},
    ]
    (tmp_path / "names.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert list(read_vocabulary(tmp_path / "names.jsonl")) == ["crow", "owl"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("names.txt", "\n \n", "contains no names"),
        ("names.json", '{"a": 1}', "should be a list of names"),
        (
            "names.json",
            '{"a.jpg": {"guessed_classnames": "Owl"}}',
            r"names\.json, a\.jpg: guessed_classnames should be",
        ),
        ("names.json", '{"a.jpg": {"guessed_classnames": {"1": 3}}}', r"names\.json, a\.jpg: no name"),
        ("names.json", "{}", "FiNDR's guessed_classnames by image, or E-FineR's lists of sentences"),
        ("names.pkl", "", r"a pickle, which could run code and is never loaded.*json\.dump"),
        ("names.json", "3", "should be a list of names"),
        ("names.json", '["a", 3]', r"names\.json, 2: no name"),
        ("names.csv", "label\nx\n", r"names\.csv, 2: no name; give a \.txt"),
        ("names.jsonl", '{"path": "1.png", "predicted": "owl"}\n', r"python -m eval\.clustering --names"),
        ("names.xlsx", "", r"give a \.txt file"),
    ],
)
def test_errors_name_the_file_and_the_problem(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_vocabulary(tmp_path / name)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt: no such file"):
        read_vocabulary(tmp_path / "gone.txt")
