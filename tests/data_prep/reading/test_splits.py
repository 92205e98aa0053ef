"""Names of splits in any spelling; unclear ones raise an error."""

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
def test_a_split_is_recognised_by_its_name(name, split):
    assert split_by_name(name) == split


@pytest.mark.parametrize(
    ("archive", "split"),
    [
        *(("train-00000-of-00001.parquet", "train"), ("openimages-test-000512.tar", "test"), ("train/0.tar", "train")),
        *(("data/validation-0.tar", "val"), ("0.tar", ""), ("contest-0.tar", "")),
    ],
)
def test_an_archives_split_is_read_from_its_name_or_its_folder(archive, split):
    assert split_of_archive(Path("root", archive), Path("root")) == split


def test_an_archive_of_an_unclear_split_raises_an_error():
    with pytest.raises(UserError, match=r"root/eval-0\.tar: which split is eval-0\.tar\?"):
        split_of_archive(Path("root/eval-0.tar"), Path("root"))


def decide(*names: str, **inside: set[str]) -> dict[str, str]:
    folders = [Path("root", name) for name in names]
    splits = split_folders(Path("root"), folders, {folder: inside.get(folder.name, set()) for folder in folders})
    return {folder.name: split for folder, split in splits.items()}


def test_folders_are_splits_if_all_have_names_of_splits():
    assert decide("Training", "Testing") == {"Training": "train", "Testing": "test"}
    assert decide("train", "val2017", "test") == {"train": "train", "val2017": "val", "test": "test"}


def test_one_folder_named_like_a_split_is_a_class_among_others():
    assert decide("bus", "car", "train") == {}
    assert decide("eval", "cat") == {}


@pytest.mark.parametrize("other", ["eval", "evaluation", "holdout"])
def test_a_split_of_unclear_use_raises_an_error(other):
    with pytest.raises(UserError, match=f"holds train and {other}: which split is {other}"):
        decide("train", other)


def test_a_split_next_to_another_folder_raises_an_error():
    with pytest.raises(UserError, match=r"holds train, test, which name a split, next to extra"):
        decide("train", "test", "extra")
    with pytest.raises(UserError, match=r"holds train, which names a split, next to unseen"):
        decide("train", "unseen", train={"cat", "dog"}, unseen={"cat", "dog"})


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
def test_folders_that_differ_only_in_a_splits_word_are_not_classes(names):
    with pytest.raises(UserError, match="look like splits, not classes"):
        decide(*names)


def test_folders_with_similar_words_are_recognised_as_splits_by_their_shared_classes():
    classes = {"cat", "dog"}
    with pytest.raises(UserError, match="Trainingsdaten and Testdaten look like splits"):
        decide("Trainingsdaten", "Testdaten", Trainingsdaten=classes, Testdaten=classes)
    assert decide("Trainingsdaten", "Testdaten") == {}


@pytest.mark.parametrize(
    "names", [("bullet train", "test tube"), ("testudo", "trainer"), ("train", "tram"), ("steam train", "toy train")]
)
def test_class_names_that_contain_a_splits_word_are_classes(names):
    assert decide(*names) == {}
