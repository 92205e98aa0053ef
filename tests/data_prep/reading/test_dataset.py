"""Shared code of the readers: keys that are safe in WebDataset shards, and the check and hash of every image."""

import hashlib
import logging
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Sample
from data_prep.datasets import Dataset, read_dataset
from data_prep.reading.dataset import PARTS, hash_images, sample_key
from data_prep.settings import DataArgs

paths = st.text(st.sampled_from("ab/._- é日'\"\\"), min_size=1, max_size=120) | st.text(min_size=1, max_size=40)


@given(st.lists(paths, min_size=2, max_size=10, unique=True))
@settings(max_examples=100, deadline=None)
def test_keys_are_short_and_alphanumeric_and_distinct_for_distinct_paths(names):
    keys = [sample_key(name) for name in names]
    assert len(set(keys)) == len(names)
    for key in keys:
        assert key.replace("-", "").replace("_", "").isascii()
        assert key.replace("-", "").replace("_", "").isalnum()
        # The longest that a tar header holds is 100: key, source and suffix.
        assert len(f"{key}-image.json") <= 100


def test_a_key_contains_the_readable_path():
    assert sample_key("train/golden retriever/img_01.v2.jpg").startswith("train-golden-retriever-img_01-v2-")
    assert sample_key("a.png") != sample_key("a.jpg")


def test_a_digest_is_the_sha256_of_the_file(tmp_path, draw_picture):
    files = [draw_picture(tmp_path / f"{n}.png", n) for n in range(4)]
    assert hash_images(files, tmp_path / "cache", "raise") == [
        hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    ]


def test_images_are_checked_once_and_again_after_a_change(tmp_path, draw_picture, caplog):
    files = [draw_picture(tmp_path / f"{n}.png", n) for n in range(3)]
    caplog.set_level(logging.INFO, "data_prep")
    first = hash_images(files, tmp_path / "cache", "raise")
    assert hash_images(files, tmp_path / "cache", "raise") == first
    assert caplog.text.count("checking 3 images") == 1
    stamp = files[1].stat().st_mtime_ns
    draw_picture(files[1], 99)
    os.utime(files[1], ns=(stamp + 1, stamp + 1))
    second = hash_images(files, tmp_path / "cache", "raise")
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]


def test_an_image_replaced_by_one_of_the_same_size_and_modification_time_is_checked_again(tmp_path):
    file = tmp_path / "0.bmp"
    Image.new("RGB", (8, 8), "red").save(file)
    before, stamp = file.stat(), file.stat().st_mtime_ns
    first = hash_images([file], tmp_path / "cache", "raise")
    Image.new("RGB", (8, 8), "blue").save(file)
    os.utime(file, ns=(stamp, stamp))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, stamp)
    assert hash_images([file], tmp_path / "cache", "raise") == [file_hash(file)] != first


def test_an_unreadable_image_raises_each_time_or_is_skipped(tmp_path, draw_picture):
    files = [draw_picture(tmp_path / "0.png", 0), tmp_path / "1.png"]
    files[1].write_bytes(b"not an image")
    for _ in range(2):
        with pytest.raises(
            UserError,
            match=r"1\.png: not readable as an image: no known image format \(1 of 2 are not\); .* data\.on_error=skip",
        ):
            hash_images(files, tmp_path / "cache", "raise")
    assert hash_images(files, tmp_path / "cache", "skip")[1] is None


def test_a_missing_image_raises_even_with_on_error_skip(tmp_path, draw_picture):
    files = [draw_picture(tmp_path / "0.png", 0), tmp_path / "gone.png"]
    with pytest.raises(UserError, match=r"gone\.png: no such image \(1 of 2 are missing\)"):
        hash_images(files, tmp_path / "cache", "skip")


def test_labels_of_a_part_are_ascending_and_without_those_of_other_parts():
    samples = {"train": [Sample(f"k{n}", "", label, "") for n, label in enumerate([3, 0, 3, 1])], "test": []}
    dataset = Dataset("pets", ("a", "b", "c", "d"), samples)
    assert dataset.labels("train") == [0, 1, 3]
    assert dataset.labels("test") == []


def test_an_unknown_data_set_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"data\.name=imagenot: there are armory, emoji, folder"):
        read_dataset(DataArgs(name="imagenot"), tmp_path, ("train",))


def test_a_damaged_digest_cache_raises_and_is_recomputed_after_deletion(tmp_path, draw_picture):
    files = [draw_picture(tmp_path / f"{n}.png", n) for n in range(3)]
    first = hash_images(files, tmp_path / "cache", "raise")
    (cached,) = (tmp_path / "cache").glob("digests-*.json")
    cached.write_text(cached.read_text().replace(first[1], first[0]))
    with pytest.raises(UserError, match=r"digests-.*damaged \(its checksum differs\); delete it to have it made again"):
        hash_images(files, tmp_path / "cache", "raise")
    cached.unlink()
    assert hash_images(files, tmp_path / "cache", "raise") == first


def test_a_single_class_raises_an_error(tmp_path, draw_picture):
    for number in range(8):
        draw_picture(tmp_path / "data" / "images" / ("2023", "2024")[number % 2] / f"{number}.png", number)
    args = DataArgs(name="folder", root=str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"data: has a single class, 'images', and at least two are needed; .* above"):
        read_dataset(args, tmp_path / "cache", PARTS)
    assert read_dataset(replace(args, root=f"{args.root}/images"), tmp_path / "cache", PARTS).names == ("2023", "2024")


def test_names_that_differ_only_in_case_are_numbered_with_a_warning(tmp_path, draw_picture, caplog):
    for number in range(12):
        draw_picture(tmp_path / "data" / ("Cat", "cat", "dog")[number % 3] / f"{number}.png", number)
    dataset = read_dataset(DataArgs(name="folder", root=str(tmp_path / "data")), tmp_path / "cache", PARTS)
    assert dataset.names == ("Cat", "cat (2)", "dog")
    assert "1 class names differ from an earlier one only in case, spaces" in caplog.text
