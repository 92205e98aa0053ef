"""Names of splits, however they are written; what is unclear is refused."""

from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.reading.splits import UNCLEAR, split_by_name, split_folders, split_of_archive


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train", "train"), ("Training", "train"), ("TRAIN", "train"), ("train_set", "train"), ("trainset", "train")),
        *(("TrainingData", "train"), ("train2017", "train"), ("1-train images", "train"), ("Testing", "test")),
        *(("test_images", "test"), ("valid", "val"), ("Validation Set", "val"), ("dev", "val")),
        *(("eval", UNCLEAR), ("Evaluation", UNCLEAR), ("hold-out", UNCLEAR), ("held_out", UNCLEAR)),
        *(("cat", ""), ("steam train", ""), ("testament", ""), ("", ""), ("2017", ""), ("entraînement", "")),
    ],
)
def test_a_split_is_known_by_its_name(name, split):
    assert split_by_name(name) == split


@pytest.mark.parametrize(
    ("archive", "split"),
    [
        *(("train-00000-of-00001.parquet", "train"), ("openimages-test-000512.tar", "test"), ("train/0.tar", "train")),
        *(("data/validation-0.tar", "val"), ("0.tar", ""), ("contest-0.tar", "")),
    ],
)
def test_an_archives_split_is_in_its_name_or_its_folders(archive, split):
    assert split_of_archive(Path("root", archive), Path("root")) == split


def test_an_archive_of_an_unclear_split_is_refused():
    with pytest.raises(UserError, match=r"root/eval-0\.tar: which split is eval-0\.tar\?"):
        split_of_archive(Path("root/eval-0.tar"), Path("root"))


def decided(*names: str, **inside: set[str]) -> dict[str, str]:
    folders = [Path("root", name) for name in names]
    found = split_folders(Path("root"), folders, {folder: inside.get(folder.name, set()) for folder in folders})
    return {folder.name: split for folder, split in found.items()}


def test_folders_are_splits_where_all_are_named_so():
    assert decided("Training", "Testing") == {"Training": "train", "Testing": "test"}
    assert decided("train", "val2017", "test") == {"train": "train", "val2017": "val", "test": "test"}


def test_one_folder_named_like_a_split_is_a_class_among_others():
    assert decided("bus", "car", "train") == {}
    assert decided("eval", "cat") == {}


@pytest.mark.parametrize("other", ["eval", "evaluation", "holdout"])
def test_a_split_of_unclear_use_is_refused(other):
    with pytest.raises(UserError, match=f"holds train and {other}: which split is {other}"):
        decided("train", other)


def test_a_split_beside_something_else_is_refused():
    with pytest.raises(UserError, match=r"holds train, test, which name a split, beside extra"):
        decided("train", "test", "extra")
    with pytest.raises(UserError, match=r"holds train, which names a split, beside unseen"):
        decided("train", "unseen", train={"cat", "dog"}, unseen={"cat", "dog"})


@pytest.mark.parametrize(
    "names",
    [
        ("seg_pred", "seg_test", "seg_train"),
        ("asl_alphabet_train", "asl_alphabet_test"),
        ("train_cleaned", "test_cleaned"),
        ("BirdsTrain", "BirdsVal"),
        ("my eval data 2", "my train data 2"),
    ],
)
def test_folders_that_differ_in_a_splits_word_alone_are_no_classes(names):
    with pytest.raises(UserError, match="look like splits, not classes"):
        decided(*names)


def test_folders_of_splits_by_another_word_are_known_by_what_they_hold():
    classes = {"cat", "dog"}
    with pytest.raises(UserError, match="Trainingsdaten and Testdaten look like splits"):
        decided("Trainingsdaten", "Testdaten", Trainingsdaten=classes, Testdaten=classes)
    assert decided("Trainingsdaten", "Testdaten") == {}


@pytest.mark.parametrize(
    "names", [("bullet train", "test tube"), ("testudo", "trainer"), ("train", "tram"), ("steam train", "toy train")]
)
def test_classes_with_such_words_are_classes(names):
    assert decided(*names) == {}
