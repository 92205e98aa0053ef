"""Mining and evaluation both refuse images that are in training and evaluated."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.leakage.contamination import MINED, drop_evaluated, drop_mined, find_mined, read_mined, write_mined


def samples(*digests: str) -> list[Sample]:
    return [Sample(f"key-{d}", f"{d}.png", 0, d) for d in digests]


DATA = Dataset("pets", ("cat",), {"train": samples("a", "b", "c"), "test": samples("c", "d"), "val": []})


def test_mining_refuses_an_image_that_is_evaluated_and_names_the_setting():
    message = (
        r"1 of 3 images of train are evaluated too.*c\.png is in test as c\.png\. Set mining\.evaluated_copies=skip"
    )
    with pytest.raises(UserError, match=message):
        drop_evaluated(DATA, "train", "error", "mining.evaluated_copies")


def test_with_the_policy_skip_mining_leaves_it_out_and_counts_it():
    dataset = drop_evaluated(DATA, "train", "skip", "mining.evaluated_copies")
    assert [s.digest for s in dataset.parts["train"]] == ["a", "b"]
    assert dataset.skipped == {"train image that is evaluated too": 1}
    assert dataset.parts["test"] == DATA.parts["test"]


def test_a_memory_may_hold_images_of_another_split():
    parts = {"test_memory": samples("a", "b", "c"), "test": samples("b"), "val": samples("c")}
    dataset = drop_evaluated(Dataset("pets", ("cat",), parts), "test_memory", "skip", "eval.leaks")
    assert [s.digest for s in dataset.parts["test_memory"]] == ["a", "c"]


def test_a_training_split_that_is_evaluated_entirely_is_never_mined():
    dataset = replace(DATA, parts=DATA.parts | {"train": DATA.parts["test"]})
    with pytest.raises(UserError, match=r"2 of 2 images of train are evaluated too.*nothing would be left of train"):
        drop_evaluated(dataset, "train", "skip", "mining.evaluated_copies")


def test_evaluation_refuses_leaves_out_or_keeps_images_that_were_mined(tmp_path):
    metadata = write_mined(tmp_path, ["b", "a", "b"])
    assert metadata["images"] == 2 and read_mined(tmp_path) == {"a", "b"}
    clean, leaky = (replace(DATA, parts={"test": samples("c", other)}) for other in "db")
    assert drop_mined(tmp_path, clean, "test", "error") == clean
    message = r"1 of 2 images of test were mined for its training; the first is b\.png\. Set eval\.leaks=skip to leave"
    with pytest.raises(UserError, match=message):
        drop_mined(tmp_path, leaky, "test", "error")
    remaining = drop_mined(tmp_path, leaky, "test", "skip")
    assert [s.digest for s in remaining.parts["test"]] == ["c"]
    assert remaining.skipped == {"test image that was mined": 1}
    assert drop_mined(tmp_path, leaky, "test", "allow") == leaky
    with pytest.raises(UserError, match=r"Set eval\.leaks=allow to keep"):
        drop_mined(tmp_path, replace(DATA, parts={"test": samples("a", "b")}), "test", "skip")


def test_a_damaged_list_is_refused_and_the_copy_that_the_error_names_repairs_it(tmp_path):
    examples, run = tmp_path / "examples", tmp_path / "run"
    for folder in (examples, run):
        write_mined(folder, ["a1", "b2"])
    assert (examples / MINED).read_bytes() == (run / MINED).read_bytes()
    intact = (run / MINED).read_text()
    for damaged in (intact.replace("b2", "b3"), intact.replace("b2\n", ""), intact[3:], ""):
        (run / MINED).write_text(damaged)
        with pytest.raises(UserError, match=r"run/mined\.txt: damaged .*data\.json names it under train"):
            find_mined(run, samples("b3"), "test")
    shutil.copy(examples / MINED, run / MINED)
    assert read_mined(run) == {"a1", "b2"}


def test_a_run_without_the_list_gets_a_warning(tmp_path, caplog):
    assert find_mined(tmp_path, samples("a"), "test") == []
    assert "no list of mined images" in caplog.text
