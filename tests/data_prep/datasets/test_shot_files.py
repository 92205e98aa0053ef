"""2SFS's few-shot splits: the files' images are the shots, and files that do not fit are named."""

import json
import logging
from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.datasets.coop import LAYOUTS
from data_prep.datasets.shots import load_shots, part_shots
from data_prep.settings import DataArgs

CLASSES = ("cup", "face", "lamp", "watch")


@pytest.fixture
def root(tmp_path, draw_picture) -> Path:
    """Caltech101 in CoOp's layout: four training images of each class, and two to evaluate."""
    root, split = tmp_path / "DATA", {"train": [], "val": [], "test": []}
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        for label, name in enumerate(CLASSES):
            for n in range(count):
                image = f"{name}/{part}_{n}.jpg"
                draw_picture(root / "caltech-101" / "101_ObjectCategories" / image, len(split[part]) + 50 * len(part))
                split[part].append([image, label, name])
    (root / "caltech-101" / LAYOUTS["caltech101"].split).write_text(json.dumps(split))
    return root


def line(image: str, label: int, prefix: str = "caltech-101/101_ObjectCategories/") -> str:
    """Returns a line as 2SFS writes it."""
    return json.dumps({"_impath": prefix + image, "_label": label, "_domain": 0, "_classname": CLASSES[label]})


def write(root: Path, lines: list[str], shots: int = 2, seed: int = 3) -> Path:
    path = root / "caltech-101" / "split_fewshot" / f"shot_{shots}-seed_{seed}_train.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in lines))
    return path


SHOTS = [(name, n) for name in CLASSES for n in (3, 1)]
LINES = [line(f"{name}/train_{n}.jpg", CLASSES.index(name)) for name, n in SHOTS]


def images(samples) -> list[str]:
    return ["/".join(sample.path.split("/")[-2:]) for sample in samples]


def test_the_shots_are_the_files_images_in_their_order(root, read_named, tmp_path):
    write(root, LINES)
    train = read_named("caltech101", root).parts["test_memory"]
    shots = load_shots(train, 2, 3, "2sfs", tmp_path)
    assert images(shots) == [f"{name}/train_{n}.jpg" for name, n in SHOTS]
    assert set(shots) <= set(train) and DataArgs(draw="2sfs", name="caltech101").draw == "2sfs"


@pytest.mark.parametrize("prefix", ["101_ObjectCategories/", "Caltech/101_ObjectCategories/"])
def test_paths_may_start_at_the_data_sets_folder_or_name_it_otherwise(root, read_named, tmp_path, prefix):
    write(root, [line(f"{name}/train_0.jpg", label, prefix) for label, name in enumerate(CLASSES)])
    train = read_named("caltech101", root).parts["test_memory"]
    assert len(load_shots(train, 2, 3, "2sfs", tmp_path)) == 4


def test_repeats_are_in_the_memory_once_and_images_of_other_parts_are_left_out(root, read_named, tmp_path, caplog):
    write(root, [LINES[0], *LINES, line("cup/val_0.jpg", 0)])
    train = read_named("caltech101", root).parts["test_memory"]
    with caplog.at_level(logging.WARNING):
        shots = load_shots(train, 2, 3, "2sfs", tmp_path)
    assert len(shots) == len(LINES)
    assert "1 of its images are not in this part" in caplog.text and "cup/val_0.jpg" in caplog.text


def test_base_classes_have_their_shots_of_the_same_file(root, read_named, tmp_path):
    write(root, LINES)
    dataset = read_named("caltech101", root, tune_classes="base")
    shots = part_shots(dataset, "val_memory", 2, 3, "2sfs", tmp_path)
    assert images(shots) == [f"{name}/train_{n}.jpg" for name, n in SHOTS if name in CLASSES[:2]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line("cup/gone.jpg", 0)], r"_train\.jsonl, line 1: .*cup/gone\.jpg is no image in .*another data set's file"),
        ([LINES[0], line("face/train_1.jpg", 0)], r"line 2: .* has label 0, and 1 in the data set"),
        (['{"_impath": "a.jpg"}'], r"line 1: should have _impath and _label.*rethinking_fewshot_vlms"),
        (["[]"], "line 1: should have _impath and _label"),
        ([line("cup/val_0.jpg", 0)], "has no image of this part"),
    ],
)
def test_files_that_do_not_fit_are_named(root, read_named, tmp_path, lines, message):
    write(root, lines)
    train = read_named("caltech101", root).parts["test_memory"]
    with pytest.raises(UserError, match=message):
        load_shots(train, 2, 3, "2sfs", tmp_path)


def test_missing_files_say_where_they_are_from(root, read_named, tmp_path):
    train = read_named("caltech101", root).parts["test_memory"]
    with pytest.raises(UserError, match=r"data\.draw=2sfs: no folder split_fewshot above .*rethinking_fewshot_vlms"):
        load_shots(train, 2, 3, "2sfs", tmp_path)
    write(root, LINES)
    with pytest.raises(UserError, match=r"shot_5-seed_3_train\.jsonl: no such file; 2SFS has 1, 2, 4, 8 and 16 shots"):
        load_shots(train, 5, 3, "2sfs", tmp_path)
