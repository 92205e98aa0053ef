"""The parts of the emoji data set: split by design family and sub-vocabulary."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_sealed
from data_prep.datasets import read_dataset
from data_prep.reading.dataset import PARTS
from data_prep.reading.kept import CONTENTS, seal
from data_prep.settings.loading import load_recipe
from tests.tiny_emoji import made_place


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return made_place(tmp_path_factory.mktemp("emoji"))


def read(root: Path, *settings: str):
    recipe = load_recipe(["recipe=retriever_lite", f"data.root={root / 'data'}", *settings])
    return read_dataset(recipe.data, root / "cache", PARTS)


def folders(samples) -> set[str]:
    return {Path(sample.path).parent.name for sample in samples}


def test_no_drawing_of_the_evaluated_families_is_in_train_or_in_their_memories(root):
    parts = read(root).parts
    assert folders(parts["test"]) == {"twemoji"}
    assert folders(parts["val"]) == {"noto"}
    others = {"noto-v1", "openmoji", "fluent-emoji", "fluent-emoji-flat", "emojione", "emojione-v1", "fxemoji"}
    assert folders(parts["train"]) == folders(parts["val_memory"]) == others
    assert folders(parts["test_memory"]) == others | {"noto"}


def test_the_two_fluent_packages_are_one_family(root):
    assert folders(read(root, "data.emoji.test=fluent").parts["test"]) == {"fluent-emoji", "fluent-emoji-flat"}


def test_unicodes_keywords_describe_the_classes_where_they_are_asked_for(root):
    assert read(root).descriptions == {}
    described = read(root, "data.descriptions=own")
    texts = {described.names[label]: texts for label, texts in described.descriptions.items()}
    assert texts["red apple"] == ("apple, thing",) and len(texts) == len(described.names)


def test_keywords_that_an_older_table_lacks_are_an_error_that_says_how_to_get_them(root, tmp_path):
    shutil.copytree(root / "data", tmp_path / "data")
    table = tmp_path / "data" / "pictures.csv"
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [key for key in rows[0] if key != "keywords"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    seal(table.parent, read_sealed(table.parent / CONTENTS) | {table.name: file_hash(table)})
    assert read(tmp_path).names
    with pytest.raises(UserError, match=r"pictures\.csv: has no keywords .*python -m data_prep\.emoji --out"):
        read(tmp_path, "data.descriptions=own")


def test_a_sub_vocabulary_without_training_images_can_be_evaluated(root):
    dataset = read(root, "data.emoji.train_vocabulary=[food,flags]", "data.emoji.vocabulary=[animals]")
    names = {part: {dataset.names[label] for label in dataset.labels(part)} for part in PARTS}
    assert names["train"] == {"red apple", "pear", "flag: France"}
    assert names["test"] == names["test_memory"] == names["val"] == {"horse face", "cricket"}
    all_labels = read(root).labels("test")
    assert len(all_labels) == 7, "without a sub-vocabulary all classes are evaluated"


def test_an_image_whose_class_is_not_in_the_memory_is_left_out_and_counted(root):
    dataset = read(root, "data.emoji.memory=[noto-v1]", "data.emoji.vocabulary=[food]")
    assert [dataset.names[label] for label in dataset.labels("test")] == ["red apple"]
    assert dataset.skipped["class not in the memory"] == 2  # in test and in val


def test_missing_data_and_wrong_settings_raise_with_the_cause(root, tmp_path):
    with pytest.raises(UserError, match=r"holds no pictures\.csv; python -m data_prep\.emoji"):
        load = load_recipe(["recipe=retriever_lite", f"data.root={tmp_path}"])
        read_dataset(load.data, tmp_path / "cache", PARTS)
    with pytest.raises(UserError, match=r"data\.emoji\.vocabulary=birds: must be one of animals, food"):
        read(root, "data.emoji.vocabulary=[birds]")
    with pytest.raises(UserError, match=r"data\.emoji\.memory: twemoji is the test family"):
        read(root, "data.emoji.memory=[twemoji]")
    with pytest.raises(UserError, match="has no images for train"):
        read(root, "data.emoji.train_vocabulary=[vehicles]")
