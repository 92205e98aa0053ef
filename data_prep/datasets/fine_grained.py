"""Readers of the fine-grained benchmarks in the layouts of their own archives, with their official splits.

Only Flowers102 has a ``val``; for the others a share of train serves as ``val``. Vocabulary-free recognition (FineR's
protocol) discovers names from images of ``train`` and scores on ``test``.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.reading.dataset import Dataset
from data_prep.reading.listing import Items, Listing, find_base, read_pairs, to_dataset, underscores_to_spaces
from data_prep.reading.matlab import read_mat
from data_prep.settings import DataArgs

CUB = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
CARS = "https://www.kaggle.com/datasets/eduardo4jesus/stanford-cars-dataset (Stanford no longer serves it)"
DOGS = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
FLOWER_NAMES = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md (cat_to_name.json)"
PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/"

SUBJECTS = {
    "cub200": "bird species",
    "cars196": "car model",
    "dogs120": "dog breed",
    "flowers102": "flower species",
    "pets37": "breed of cat or dog",
}
"""The kind of a benchmark's classes, which vocabulary-free recognition may know (FineR's protocol)."""


def _to_label(number: object, names: tuple[str, ...], where: Path, source: str) -> int:
    """Converts a class number that counts from 1 to a label that counts from 0."""
    if not str(number).isdigit() or not 1 <= int(number) <= len(names):
        raise UserError(f"{where}: class {number} is not in 1..{len(names)}; download the data set from {source}")
    return int(number) - 1


def read_cub200(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads CUB-200-2011: ``classes.txt``, ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt``.

    Raises:
        UserError: A list is missing or does not fit the others, or images are missing or unreadable.
    """
    base = find_base(args, ("CUB_200_2011",), "images.txt", CUB)
    names = tuple(underscores_to_spaces(name.split(".", 1)[-1]) for _, name in read_pairs(base / "classes.txt", CUB))
    labels, training = (
        dict(read_pairs(base / name, CUB)) for name in ("image_class_labels.txt", "train_test_split.txt")
    )
    splits: dict[str, Items] = {"train": [], "test": []}
    for number, path in read_pairs(base / "images.txt", CUB):
        if number not in labels or training.get(number) not in ("0", "1"):
            raise UserError(
                f"{base}: image {number} ({path}) has no class or no split; download the data set from {CUB}"
            )
        label = _to_label(labels[number], names, base / "image_class_labels.txt", CUB)
        splits["train" if training[number] == "1" else "test"].append((f"images/{path}", label))
    return to_dataset(Listing(base, names, splits, CUB, ("a photo of a {}, a type of bird.",)), args, cache, parts)


def read_cars196(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads Stanford Cars: ``cars_train``, ``cars_test``, ``devkit`` and the labels of the test images.

    Raises:
        UserError: A list is missing or names an unknown class, or images are missing or unreadable.
    """
    base = find_base(args, ("stanford_cars", "car196"), "devkit", CARS)
    names = tuple(str(name) for name in read_mat(base / "devkit" / "cars_meta.mat", "class_names", CARS))
    splits = {}
    for split, list_file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        records = read_mat(base / list_file, "annotations", CARS)
        if not all(isinstance(record, dict) and {"fname", "class"} <= record.keys() for record in records):
            raise UserError(f"{base / list_file}: records need fname and class; download the data set from {CARS}")
        splits[split] = [
            (f"cars_{split}/{record['fname']}", _to_label(record["class"], names, base / list_file, CARS))
            for record in records
        ]
    return to_dataset(Listing(base, names, splits, CARS, ("a photo of a {}.",)), args, cache, parts)


def read_dogs120(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads Stanford Dogs: ``Images``, ``train_list.mat`` and ``test_list.mat``; a folder ends in its breed.

    Raises:
        UserError: A list is missing or names an unknown class, or images are missing or unreadable.
    """
    base = find_base(args, ("stanford_dogs", "dogs120", "StanfordDogs"), "train_list.mat", DOGS)
    splits: dict[str, Items] = {}
    name_of: dict[int, str] = {}
    for split in ("train", "test"):
        list_file = base / f"{split}_list.mat"
        files, labels = (read_mat(list_file, variable, DOGS) for variable in ("file_list", "labels"))
        if len(files) != len(labels):
            raise UserError(
                f"{list_file}: {len(files)} files and {len(labels)} labels; download the data set from {DOGS}"
            )
        splits[split] = [(f"Images/{path}", int(label) - 1) for path, label in zip(files, labels, strict=True)]
        for path, label in splits[split]:
            breed = underscores_to_spaces(path.split("/")[1].split("-", 1)[-1])
            if name_of.setdefault(label, breed) != breed:
                raise UserError(
                    f"{list_file}: label {label + 1} is {breed} and {name_of[label]}; download the data set from {DOGS}"
                )
    if sorted(name_of) != list(range(len(name_of))):
        raise UserError(
            f"{base}: the labels of train_list.mat and test_list.mat have gaps; download the data set from {DOGS}"
        )
    names = tuple(name_of[label] for label in sorted(name_of))
    return to_dataset(Listing(base, names, splits, DOGS, ("a photo of a {}, a type of dog.",)), args, cache, parts)


def _flower_names(path: Path) -> tuple[str, ...]:
    """Reads the names in ``cat_to_name.json``, or takes torchvision's without it: the archives contain none."""
    if not path.is_file():
        from torchvision.datasets import Flowers102

        return tuple(Flowers102.classes)
    by_number = read_json(path)
    numbers = [str(number) for number in range(1, len(by_number) + 1)] if isinstance(by_number, dict) else []
    if not numbers or not all(isinstance(by_number.get(number), str) for number in numbers):
        raise UserError(f"{path}: should name each class by its number, from 1; download it from {FLOWER_NAMES}")
    return tuple(underscores_to_spaces(by_number[number]) for number in numbers)


def read_flowers102(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads Oxford Flowers: ``jpg``, ``imagelabels.mat``, ``setid.mat`` and, if present, ``cat_to_name.json``.

    Raises:
        UserError: A file is missing, or a list names an unknown image or class, or images are missing or unreadable.
    """
    base = find_base(args, ("flowers-102", "oxford_flowers"), "setid.mat", FLOWERS)
    names = _flower_names(base / "cat_to_name.json")
    labels = read_mat(base / "imagelabels.mat", "labels", FLOWERS)
    splits: dict[str, Items] = {}
    for split, variable in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        numbers = read_mat(base / "setid.mat", variable, FLOWERS)
        unknown = [number for number in numbers if not 1 <= number <= len(labels)]
        if unknown:
            raise UserError(
                f"{base / 'setid.mat'}: imagelabels.mat has no image {unknown[0]}; download the data set from {FLOWERS}"
            )
        splits[split] = [
            (f"jpg/image_{number:05d}.jpg", _to_label(labels[number - 1], names, base / "imagelabels.mat", FLOWERS))
            for number in numbers
        ]
    templates = ("a photo of a {}, a type of flower.",)
    return to_dataset(Listing(base, names, splits, FLOWERS, templates), args, cache, parts)


def read_pets37(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads Oxford-IIIT Pets: ``images``, ``annotations/trainval.txt`` and ``test.txt``; a file begins with its breed.

    Raises:
        UserError: A list is missing, or images are missing or unreadable.
    """
    base = find_base(args, ("oxford-iiit-pet", "oxford_pets"), "annotations", PETS)
    splits = {
        split: [(f"images/{name}.jpg", name.rsplit("_", 1)[0]) for name, _ in read_pairs(path, PETS)]
        for split, path in (("train", base / "annotations/trainval.txt"), ("test", base / "annotations/test.txt"))
    }
    breeds = sorted({breed for items in splits.values() for _, breed in items}, key=str.casefold)
    label_of = {breed: label for label, breed in enumerate(breeds)}
    items = {split: [(path, label_of[breed]) for path, breed in pairs] for split, pairs in splits.items()}
    names = tuple(underscores_to_spaces(breed) for breed in breeds)
    return to_dataset(Listing(base, names, items, PETS, ("a photo of a {}, a type of pet.",)), args, cache, parts)
