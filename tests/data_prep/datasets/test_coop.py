"""CoOp's layout: each benchmark is read from its folder and split file, and errors name the file."""

import json
import random

import pytest

from data_prep.datasets.coop import GUIDE, LAYOUTS
from data_prep.datasets.shots import draw_shots

CLASSES = ("cup", "Apply_Eye_Makeup", "face")
COUNTS = {"train": 5, "val": 2, "test": 3}


def split_of(classes=CLASSES, counts=COUNTS) -> dict:
    """Returns a split file's content, unsorted like CoOp's."""
    split = {
        part: [[f"{name}/{part}_{n}.jpg", label, name] for label, name in enumerate(classes) for n in range(count)]
        for part, count in counts.items()
    }
    for entries in split.values():
        random.Random(0).shuffle(entries)
    return split


@pytest.fixture
def make(tmp_path, draw_picture):
    """Creates a benchmark in its layout; returns ``data.root`` and the split file."""

    def write(name="caltech101", folder=None, split=None):
        layout, root = LAYOUTS[name], tmp_path / "data"
        base = root / (layout.folders[0] if folder is None else folder)
        split = split or split_of()
        entries = [entry for part in split.values() for entry in part]
        for seed, entry in enumerate(entries):
            draw_picture(base / layout.images / entry[0], seed)
        if layout.marker:
            (base / layout.marker).mkdir(parents=True, exist_ok=True)
        (base / layout.split).write_text(json.dumps(split))
        return root, base / layout.split

    return write


FOLDERS = [(name, folder) for name, layout in LAYOUTS.items() for folder in layout.folders]


@pytest.mark.parametrize(("name", "folder"), [*FOLDERS, ("dtd", "")])
def test_each_benchmark_is_read_from_its_folders(make, read_named, name, folder):
    root, _ = make(name, folder)
    dataset = read_named(name, root)
    assert dataset.name == name
    assert dataset.names == ("cup", "Apply Eye Makeup", "face")
    assert dataset.templates == (LAYOUTS[name].template,)
    counts = {part: len(samples) for part, samples in dataset.parts.items()}
    assert counts == {"train": 15, "val_memory": 15, "val": 6, "test_memory": 15, "test": 9}
    for part, word in (("test_memory", "train"), ("val", "val"), ("test", "test")):
        expected = [(entry[0], entry[1]) for entry in split_of()[word]]
        assert [("/".join(s.path.split("/")[-2:]), s.label) for s in dataset.parts[part]] == expected


def test_the_split_file_may_be_in_the_root_of_torchvisions_folders(make, read_named):
    root, split = make("food101")
    split.rename(root / split.name)
    assert len(read_named("food101", root).parts["test"]) == 9


def test_the_prompts_are_those_of_the_protocol():
    assert {name: layout.template for name, layout in LAYOUTS.items()} == {
        "caltech101": "a photo of a {}.",
        "oxford_pets": "a photo of a {}, a type of pet.",
        "stanford_cars": "a photo of a {}.",
        "oxford_flowers": "a photo of a {}, a type of flower.",
        "food101": "a photo of {}, a type of food.",
        "sun397": "a photo of a {}.",
        "dtd": "{} texture.",
        "eurosat": "a centered satellite photo of {}.",
        "ucf101": "a photo of a person doing {}.",
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shots_of_a_split_file_are_those_of_random_sample(make, read_named, seed):
    """The protocol applied to the split file: the generator seeded once, classes by first entry, a sample of each."""
    split = split_of(counts={"train": 9, "val": 1, "test": 1})
    root, _ = make(split=split)
    random.seed(seed)
    expected = []
    for label in dict.fromkeys(entry[1] for entry in split["train"]):
        expected += [entry[0] for entry in random.sample([e for e in split["train"] if e[1] == label], 4)]
    shots = draw_shots(read_named("caltech101", root).parts["test_memory"], 4, seed)
    assert [sample.path.split("101_ObjectCategories/")[1] for sample in shots] == expected


def test_only_the_images_of_the_requested_parts_are_opened(make, read_named):
    root, _ = make()
    for path in root.rglob("train_*.jpg"):
        path.unlink()
    dataset = read_named("caltech101", root, ("val", "test"))
    assert {part: len(samples) for part, samples in dataset.parts.items()} == {"val": 6, "test": 9}


def test_a_missing_folder_split_file_or_image_raises_with_its_path_and_source(make, error_message, tmp_path):
    message = error_message("caltech101", tmp_path)
    assert str(tmp_path / "caltech-101" / "101_ObjectCategories") in message
    assert GUIDE in message
    root, split = make()
    image = next(root.rglob("cup/test_1.jpg"))
    image.unlink()
    message = error_message("caltech101", root)
    assert f"{image}: no such image (1 of 9 in test are missing)" in message
    assert GUIDE in message
    split.unlink()
    message = error_message("caltech101", root)
    assert f"{split}: no such file" in message
    assert GUIDE in message


def test_an_unreadable_image_raises_or_is_skipped_and_counted(make, error_message, read_named):
    root, _ = make()
    image = next(root.rglob("cup/train_1.jpg"))
    image.write_bytes(b"not an image")
    message = error_message("caltech101", root)
    assert f"{image}: not readable as an image" in message
    assert GUIDE in message
    dataset = read_named("caltech101", root, on_error="skip")
    assert dataset.skipped["unreadable"] == 1
    assert len(dataset.parts["test_memory"]) == 14


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{oops", "not readable as JSON"),
        ("[]", "needs the lists train, val and test"),
        ('{"train": [], "test": []}', "needs the lists train, val and test"),
        ('{"train": [["a.jpg", "0", "a"]], "val": [], "test": []}', "train[0]: ['a.jpg', '0', 'a'] should be"),
        ('{"train": [["a.jpg", 0]], "val": [], "test": []}', "train[0]"),
        ('{"train": [["a.jpg", 0, "a"]], "val": [["b.jpg", 0, "b"]], "test": []}', "val[0]: label 0 is both 'b' and"),
        ('{"train": [["a.jpg", 1, "a"]], "val": [], "test": []}', "labels should count from 0, but none is 0"),
        ('{"train": [["a.jpg", 0, "a"]], "val": [["b.jpg", 0, "a"]], "test": []}', "test lists no images"),
        (json.dumps({part: [["a.jpg", 0, "a"]] * 2 for part in COUNTS}), "lists a.jpg twice"),
    ],
)
def test_a_malformed_split_file_raises_with_the_cause(make, error_message, content, expected):
    root, split = make()
    split.write_text(content)
    message = error_message("caltech101", root)
    assert expected in message
    assert "caltech-101" in message


def test_a_split_file_of_another_data_set_is_suspected_if_all_images_are_missing(make, error_message):
    root, split = make()
    split.write_text(json.dumps(split_of(("basset", "beagle"))))
    message = error_message("caltech101", root)
    assert "beagle/" in message
    assert "the split file may be another data set's" in message


def test_a_class_without_training_images_raises_or_is_skipped_and_counted(make, error_message, read_named):
    split = split_of()
    split["train"] = [entry for entry in split["train"] if entry[2] != "face"]
    root, _ = make(split=split)
    message = error_message("caltech101", root)
    assert "1 of 3 classes of caltech101 have no training images: face" in message
    assert GUIDE in message
    dataset = read_named("caltech101", root, on_small_class="skip")
    assert dataset.skipped["small class"] == 5
    assert {s.label for samples in dataset.parts.values() for s in samples} == {0, 1}


def test_an_image_in_both_train_and_test_is_reported(make, read_named, caplog):
    split = split_of()
    split["test"][0] = split["train"][0]
    root, _ = make(split=split)
    read_named("caltech101", root)
    assert f"1 images are in both train and test, such as {split['train'][0][0]}" in caplog.text
