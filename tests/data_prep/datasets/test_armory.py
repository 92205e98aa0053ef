"""The procedural data set: byte-reproducible, disjoint by split, and rendered once."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.armory.blazon import owning_split, random_blazon_of_split
from data_prep.core.errors import UserError
from data_prep.datasets import read_dataset
from data_prep.reading.dataset import PARTS
from data_prep.settings import ArmoryArgs, DataArgs

TINY = DataArgs(armory=ArmoryArgs(4, 4, 4, train_images=2, memory_images=2, query_images=1, size=32))


def names_and_bytes(dataset) -> dict:
    return {s.key: (dataset.names[s.label], s.digest) for samples in dataset.parts.values() for s in samples}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tiny(cache):
    return read_dataset(TINY, cache, PARTS)


def test_the_same_seed_gives_the_same_bytes_in_another_cache(tiny, tmp_path):
    again = read_dataset(TINY, tmp_path, PARTS)
    assert again.names == tiny.names
    assert names_and_bytes(again) == names_and_bytes(tiny)


def test_another_seed_gives_other_classes_and_images(tiny, cache):
    other = read_dataset(replace(TINY, seed=1), cache, PARTS)
    assert not set(other.names) & set(tiny.names)
    images = [{digest for _, digest in names_and_bytes(dataset).values()} for dataset in (tiny, other)]
    assert not images[0] & images[1]


def test_no_two_images_are_identical(armory):
    digests = [s.digest for part in PARTS for s in armory.parts[part]]
    assert len(digests) == len(set(digests))


def test_keys_are_unique_and_without_dots(armory):
    keys = [s.key for part in PARTS for s in armory.parts[part]]
    assert len(keys) == len(set(keys))
    assert not any("." in key for key in keys)


def test_classes_of_different_splits_are_disjoint(armory):
    classes = {part: {armory.names[label] for label in armory.labels(part)} for part in PARTS}
    assert classes["val"] == classes["val_memory"]
    assert classes["test"] == classes["test_memory"]
    for split in ("train", "val", "test"):
        assert {owning_split(name) for name in classes[split]} == {split}
        assert len(classes[split]) == 8
    assert len(set(armory.names)) == len(armory.names) == 24


def test_no_class_is_one_that_the_nano_models_were_trained_on(armory):
    rng = np.random.default_rng(0)
    trained_on = {random_blazon_of_split("base", rng).name for _ in range(2000)}
    assert not trained_on & set(armory.names)


def test_every_class_has_its_number_of_images_and_queries_are_not_in_the_memory(armory):
    per_class = {part: Counter(s.label for s in armory.parts[part]) for part in PARTS}
    sizes = {part: set(counts.values()) for part, counts in per_class.items()}
    assert sizes == {"train": {3}, "val_memory": {4}, "val": {2}, "test_memory": {4}, "test": {2}}
    for split in ("val", "test"):
        memory, queries = ({s.path for s in armory.parts[part]} for part in (f"{split}_memory", split))
        assert not memory & queries


def test_only_the_requested_parts_are_rendered(tmp_path):
    dataset = read_dataset(TINY, tmp_path, ("val",))
    assert set(dataset.parts) == {"val"}
    assert len(dataset.names) == 4
    assert [path.name.split("-")[1] for path in tmp_path.glob("armory-*")] == ["val"]


def test_rendered_images_are_reused(tiny, cache):
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert read_dataset(TINY, cache, PARTS) == tiny
    assert {path: time for path in before if (time := path.stat().st_mtime_ns)} == before


@pytest.mark.parametrize("change", [{"size": 40}, {"query_images": 2}, {"test_classes": 5}, {"family_size": 2}])
def test_other_settings_are_rendered_into_another_folder(tiny, cache, change):
    args = replace(TINY, armory=replace(TINY.armory, **change))
    changed = read_dataset(args, cache, ("test",))
    assert Path(changed.parts["test"][0].path).parents[1] != Path(tiny.parts["test"][0].path).parents[1]


def test_a_missing_or_altered_image_raises_and_is_rendered_again_after_deletion(tiny, tmp_path):
    args = replace(TINY, seed=5)
    first = read_dataset(args, tmp_path, ("test",))
    folder = Path(first.parts["test"][0].path).parents[1]
    for damage in (lambda path: path.write_bytes(b"not an image"), lambda path: path.unlink()):
        damage(folder / "000000" / "0000.png")
        with pytest.raises(UserError, match=r"0000\.png: .*; delete .*armory-test-.* to have it made again"):
            read_dataset(args, tmp_path, ("test",))
    shutil.rmtree(folder)
    assert read_dataset(args, tmp_path, ("test",)) == first
