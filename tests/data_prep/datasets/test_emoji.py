"""The emoji's parts: by design family and sub-vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.datasets import read_dataset
from data_prep.reading.dataset import PARTS
from data_prep.settings.loading import load_recipe
from tests.tiny_emoji import made_place


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return made_place(tmp_path_factory.mktemp("emoji"))


def read(place: Path, *settings: str):
    recipe = load_recipe(["recipe=retriever_lite", f"data.root={place / 'data'}", *settings])
    return read_dataset(recipe.data, place / "cache", PARTS)


def folders(samples) -> set[str]:
    return {Path(sample.path).parent.name for sample in samples}


def test_no_drawing_of_the_evaluated_families_is_tuned_on_or_in_their_memories(place):
    parts = read(place).parts
    assert folders(parts["test"]) == {"twemoji"}
    assert folders(parts["val"]) == {"noto"}
    others = {"noto-v1", "openmoji", "fluent-emoji", "fluent-emoji-flat", "emojione", "emojione-v1", "fxemoji"}
    assert folders(parts["train"]) == folders(parts["val_memory"]) == others
    assert folders(parts["test_memory"]) == others | {"noto"}


def test_the_two_fluent_packages_are_one_family(place):
    assert folders(read(place, "data.emoji.test=fluent").parts["test"]) == {"fluent-emoji", "fluent-emoji-flat"}


def test_a_sub_vocabulary_can_be_recognised_that_was_not_tuned_on(place):
    dataset = read(place, "data.emoji.train_vocabulary=[food,flags]", "data.emoji.vocabulary=[animals]")
    names = {part: {dataset.names[label] for label in dataset.labels(part)} for part in PARTS}
    assert names["train"] == {"red apple", "pear", "flag: France"}
    assert names["test"] == names["test_memory"] == names["val"] == {"horse face", "cricket"}
    whole = read(place).labels("test")
    assert len(whole) == 7, "the names alone have all classes"


def test_a_picture_whose_class_the_memory_lacks_is_left_out_and_counted(place):
    dataset = read(place, "data.emoji.memory=[noto-v1]", "data.emoji.vocabulary=[food]")
    assert [dataset.names[label] for label in dataset.labels("test")] == ["red apple"]
    assert dataset.skipped["class not in the memory"] == 2  # in test and in development


def test_what_is_wrong_is_said(place, tmp_path):
    with pytest.raises(UserError, match=r"holds no pictures\.csv; python -m data_prep\.emoji"):
        load = load_recipe(["recipe=retriever_lite", f"data.root={tmp_path}"])
        read_dataset(load.data, tmp_path / "cache", PARTS)
    with pytest.raises(UserError, match=r"data\.emoji\.vocabulary=birds: must be one of animals, food"):
        read(place, "data.emoji.vocabulary=[birds]")
    with pytest.raises(UserError, match=r"data\.emoji\.memory: twemoji is the test family"):
        read(place, "data.emoji.memory=[twemoji]")
    with pytest.raises(UserError, match="has no pictures for tuning"):
        read(place, "data.emoji.train_vocabulary=[vehicles]")
