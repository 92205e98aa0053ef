"""The halves of a data set's classes are CoOp's, and limiting parts to one keeps labels, names and shots."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.datasets.shots import draw_shots, part_shots
from data_prep.leakage.contamination import drop_evaluated
from data_prep.reading.class_halves import HALVES, TUNED_PARTS, half_labels, leave_out_of_train, limit_classes
from data_prep.reading.dataset import Dataset


def samples(classes: int, images: int, part: str) -> list[Sample]:
    return [Sample(f"{part}{i}", f"{part}{i}.png", (7 * i) % classes, f"{part}{i}") for i in range(classes * images)]


def dataset(classes: int = 5) -> Dataset:
    parts = {part: samples(classes, 3, part) for part in ("val_memory", "val", "test_memory", "test")}
    return Dataset("pets", tuple(f"cat {n}" for n in range(classes)), parts)


@given(st.integers(1, 300))
def test_the_first_half_of_the_labels_rounded_up_is_base(classes):
    base, new = (list(half_labels(classes, half)) for half in HALVES)
    assert base == list(range(classes))[: math.ceil(classes / 2)]  # CoOp's labels[:m] and labels[m:]
    assert base + new == list(range(classes))


@pytest.mark.parametrize("half", HALVES)
def test_named_parts_have_the_classes_of_the_half_and_the_others_all(half):
    whole = dataset()
    limited = limit_classes(whole, half, TUNED_PARTS, "data.tune_classes=base")
    assert limited.labels("val") == limited.labels("val_memory") == list(half_labels(5, half))
    assert limited.names == whole.names
    assert limited.parts["test"] == whole.parts["test"] and limited.parts["test_memory"] == whole.parts["test_memory"]
    assert limited.parts["val"] == [s for s in whole.parts["val"] if s.label in half_labels(5, half)]


@pytest.mark.parametrize("draw", ["coop", "first_n"])
def test_classes_keep_the_shots_that_they_have_among_all_classes(tmp_path, draw):
    whole = dataset()
    expected = part_shots(whole, "val_memory", 2, 1, draw, tmp_path)
    parts = [limit_classes(whole, half, ["val_memory"], "eval.classes") for half in HALVES]
    shots = [part_shots(part, "val_memory", 2, 1, draw, tmp_path) for part in parts]
    assert sorted([*shots[0], *shots[1]], key=lambda s: s.key) == sorted(expected, key=lambda s: s.key)
    assert {s.label for s in shots[0]} == set(half_labels(5, "base"))


def test_an_image_that_is_left_out_of_a_memory_is_not_among_its_shots(tmp_path):
    whole = dataset()
    taken = draw_shots(whole.parts["val_memory"], 2, 1)[0]
    evaluated = [*whole.parts["val"], Sample("copy", "copy.png", taken.label, taken.digest)]
    half = "base" if taken.label in half_labels(5, "base") else "new"
    limited = limit_classes(
        Dataset("pets", whole.names, whole.parts | {"val": evaluated}), half, TUNED_PARTS, "data.tune_classes=base"
    )
    left = drop_evaluated(limited, "val_memory", "skip", "mining.evaluated_copies")
    shots = part_shots(left, "val_memory", 2, 1, "coop", tmp_path)
    assert taken not in shots
    assert [[s.label for s in shots].count(label) for label in left.labels("val_memory")] == [2] * 3


def test_a_half_of_one_class_and_a_part_without_the_half_are_errors():
    with pytest.raises(UserError, match=r"eval\.classes=new: of the 3 classes of pets, the new half has 1"):
        limit_classes(dataset(3), "new", ["test"], "eval.classes=new")
    foreign = Dataset("pets", dataset().names, {"val": [Sample("a", "a.png", 4, "a")]})
    with pytest.raises(UserError, match=r"data\.tune_classes=base: val of pets has no image of the base classes"):
        limit_classes(foreign, "base", TUNED_PARTS, "data.tune_classes=base")


@given(st.integers(2, 60), st.floats(0, 0.9))
def test_the_last_classes_are_left_out_of_train_alone(classes, fraction):
    parts = {part: samples(classes, 2, part) for part in ("train", "val", "val_memory")}
    whole = Dataset("pets", tuple(f"cat {n}" for n in range(classes)), parts)
    labels = whole.labels("train")
    kept = len(labels) - round(fraction * len(labels))
    if kept < 2:
        with pytest.raises(UserError, match=r"data\.val_only_classes=.*: leaves \d of the \d+ tuned classes of pets"):
            leave_out_of_train(whole, fraction)
        return
    left = leave_out_of_train(whole, fraction)
    assert left.labels("train") == labels[:kept]
    assert all(left.parts[part] == whole.parts[part] for part in ("val", "val_memory"))
    assert left.names == whole.names


def test_classes_of_val_alone_are_the_last_of_the_tuned_ones(tmp_path):
    limited = limit_classes(dataset(8), "base", TUNED_PARTS, "data.tune_classes=base")
    train = replace(limited, parts=limited.parts | {"train": limited.parts["val"]})
    assert leave_out_of_train(train, 0.25).labels("train") == [0, 1, 2]
    assert leave_out_of_train(limited, 0.25) == limited  # without train nothing is left out
