"""Descriptions of classes are read from a file by class name, and malformed ones are refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.reading.descriptions import read_descriptions

NAMES = ("cat", "Dog", "dog", "bird")


def write(folder: Path, content: object) -> Path:
    path = folder / "descriptions.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_texts_are_given_to_the_classes_of_that_name_whatever_its_spelling(tmp_path):
    path = write(tmp_path, {"DOG ": [" barks  loudly", "has a tail"], "cat": "purrs"})
    expected = {0: ("purrs",), 1: ("barks loudly", "has a tail"), 2: ("barks loudly", "has a tail")}
    assert read_descriptions(path, NAMES) == read_descriptions(tmp_path, NAMES) == expected


def test_a_name_spelled_as_a_class_describes_that_class_alone(tmp_path):
    write(tmp_path, {"Dog": "barks", " dog": "whines", "BIRD": "sings"})
    assert read_descriptions(tmp_path, NAMES) == {1: ("barks",), 2: ("whines",), 3: ("sings",)}
    write(tmp_path, {"DOG": "whines", "Dog": "barks"})
    assert read_descriptions(tmp_path, NAMES) == {1: ("barks",), 2: ("whines",)}
    write(tmp_path, {"Dog": "barks"})
    assert read_descriptions(tmp_path, NAMES) == {1: ("barks",)}


@pytest.mark.parametrize("keys", [("cat", "cat "), ("CAT", "Cat"), ("CAT", "cat"), ("Dog", "dog", "DOG")])
def test_two_names_of_one_class_are_an_error(keys, tmp_path):
    write(tmp_path, dict.fromkeys(keys, "has a tail"))
    with pytest.raises(UserError, match=r"descriptions\.json: '.*' and '.*' are both the class '(cat|Dog|dog)'"):
        read_descriptions(tmp_path, NAMES)


def test_a_folder_need_not_have_the_file(tmp_path):
    assert read_descriptions(tmp_path, NAMES) == {}


def test_names_that_are_no_class_are_counted_in_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path, {"cat": "purrs", "fish": "swims", "frog": "jumps"})
    assert read_descriptions(tmp_path, NAMES) == {0: ("purrs",)}
    assert "2 names are not classes of this data set; the first is 'fish'" in caplog.text
    assert "of 1 of 4 classes" in caplog.text


@pytest.mark.parametrize(
    "content", [[], "text", {"cat": 1}, {"cat": ["purrs", ""]}, {"cat": [["purrs"]]}, {"cat": None}]
)
def test_a_malformed_file_is_an_error_that_names_it(content, tmp_path):
    with pytest.raises(UserError, match=r"descriptions\.json.*must be"):
        read_descriptions(write(tmp_path, content), NAMES)


def test_a_file_that_is_no_json_is_an_error_that_names_it(tmp_path):
    (tmp_path / "descriptions.json").write_text("cat: purrs")
    with pytest.raises(UserError, match=r"descriptions\.json"):
        read_descriptions(tmp_path, NAMES)
