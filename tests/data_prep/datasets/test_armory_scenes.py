"""The built-in detection set: unseen classes, rare, common and frequent by construction, and byte-reproducible."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from data_prep.armory.blazon import owning_split
from data_prep.core.files import folder_hash
from data_prep.datasets import read_dataset
from data_prep.datasets.armory_scenes import render_scenes
from data_prep.detection.annotations import read_annotations
from data_prep.detection.proposals import read_annotated_boxes
from data_prep.settings import ArmoryArgs, DataArgs, SceneArgs

DATA = DataArgs(armory=ArmoryArgs(8, 7, 7, train_images=2, memory_images=1, query_images=1, size=32))
SCENES = SceneArgs(size=96, sides=[12, 40], shields=[2, 5])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def folder(cache):
    return render_scenes(DATA, SCENES, "test", cache)


@pytest.fixture(scope="module")
def truth(folder):
    return read_annotations(folder / "annotations.json", "lvis").truth


def test_the_same_seed_gives_the_same_bytes_in_another_cache(folder, tmp_path):
    again = render_scenes(DATA, SCENES, "test", tmp_path)
    assert again.name == folder.name
    assert folder_hash(again) == folder_hash(folder)


def test_scenes_are_rendered_once(folder, cache, caplog):
    caplog.set_level("INFO", "data_prep")
    assert render_scenes(DATA, SCENES, "test", cache) == folder
    assert "reusing" in caplog.text


@pytest.mark.parametrize("change", [replace(DATA, seed=1), replace(DATA, armory=replace(DATA.armory, corruption=0.1))])
def test_another_seed_or_corruption_gives_another_folder(change, folder, tmp_path):
    assert render_scenes(change, SCENES, "test", tmp_path).name != folder.name


def test_classes_are_rare_common_and_frequent_by_construction(truth):
    counts = Counter(annotation["category_id"] for annotation in truth["annotations"])
    by_letter = {letter: [c["id"] for c in truth["categories"] if c["frequency"] == letter] for letter in "rcf"}
    assert sorted(map(len, by_letter.values())) == [2, 2, 3]
    for letter, shields in (("r", SCENES.rare), ("c", SCENES.common), ("f", SCENES.frequent)):
        assert {counts[category] for category in by_letter[letter]} == {shields}
    assert [c["instance_count"] for c in truth["categories"]] == [counts[c["id"]] for c in truth["categories"]]


def test_classes_are_the_test_classes_of_recognition(truth, cache):
    names = [category["name"] for category in truth["categories"]]
    assert tuple(names) == read_dataset(DATA, cache, ("test",)).names
    assert {owning_split(name) for name in names} == {"test"}


def test_every_class_is_present_or_listed_as_absent(truth):
    all_ids = {category["id"] for category in truth["categories"]}
    for image in truth["images"]:
        present = {a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]}
        assert present and present | set(image["neg_category_ids"]) == all_ids
        assert not present & set(image["neg_category_ids"])


def test_scenes_have_the_requested_number_of_shields_and_are_read_like_any_detection_set(folder, truth, cache):
    per_scene = Counter(annotation["image_id"] for annotation in truth["annotations"])
    assert all(2 <= per_scene[image["id"]] <= 5 for image in truth["images"][:-1])
    assert Image.open(folder / truth["images"][0]["file_name"]).size == (96, 96)
    boxes = read_annotated_boxes(read_annotations(folder / "annotations.json", "lvis"), folder, cache, "raise")
    assert len(boxes.found) == len(truth["annotations"]) and not boxes.skipped
