"""Mining and evaluation both refuse images that are in training and evaluated."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.leakage.contamination import MINED, check_not_mined, drop_evaluated, read_mined, write_mined


def samples(*digests: str) -> list[Sample]:
    return [Sample(f"key-{d}", f"{d}.png", 0, d) for d in digests]


DATA = Dataset("pets", ("cat",), {"train": samples("a", "b", "c"), "test": samples("c", "d"), "val": []})


def test_mining_refuses_an_image_that_is_evaluated():
    with pytest.raises(
        UserError, match=r"1 of 3 training images are evaluated too.*c\.png is in test.*evaluated_copies"
    ):
        drop_evaluated(DATA, "error")


def test_with_the_policy_skip_mining_leaves_it_out_and_counts_it():
    dataset = drop_evaluated(DATA, "skip")
    assert [s.digest for s in dataset.parts["train"]] == ["a", "b"]
    assert dataset.skipped == {"training image that is evaluated too": 1}
    assert dataset.parts["test"] == DATA.parts["test"]


def test_a_training_split_that_is_evaluated_entirely_is_never_mined():
    dataset = replace(DATA, parts=DATA.parts | {"train": DATA.parts["test"]})
    with pytest.raises(UserError, match="2 of 2 training images are evaluated too"):
        drop_evaluated(dataset, "skip")


def test_evaluation_refuses_images_that_were_mined(tmp_path):
    metadata = write_mined(tmp_path, ["b", "a", "b"])
    assert metadata["images"] == 2 and read_mined(tmp_path) == {"a", "b"}
    check_not_mined(tmp_path, samples("c", "d"), "test")
    with pytest.raises(UserError, match=r"1 of 2 images of test were mined for its training; the first is b\.png"):
        check_not_mined(tmp_path, samples("c", "b"), "test")


def test_a_damaged_list_is_refused_and_the_copy_that_the_error_names_repairs_it(tmp_path):
    examples, run = tmp_path / "examples", tmp_path / "run"
    for folder in (examples, run):
        write_mined(folder, ["a1", "b2"])
    assert (examples / MINED).read_bytes() == (run / MINED).read_bytes()
    intact = (run / MINED).read_text()
    for damaged in (intact.replace("b2", "b3"), intact.replace("b2\n", ""), intact[3:], ""):
        (run / MINED).write_text(damaged)
        with pytest.raises(UserError, match=r"run/mined\.txt: damaged .*data\.json names it under train"):
            check_not_mined(run, samples("b3"), "test")
    shutil.copy(examples / MINED, run / MINED)
    assert read_mined(run) == {"a1", "b2"}


def test_a_run_without_the_list_gets_a_warning(tmp_path, caplog):
    check_not_mined(tmp_path, samples("a"), "test")
    assert "no list of mined images" in caplog.text
