"""Readers of the few-shot benchmarks in the layout that CoOp documents, with its ``split_zhou_*.json`` files.

Source: CoOp's DATASETS.md (https://github.com/KaiyangZhou/CoOp); the prompts are those of its zero-shot CLIP.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.reading.dataset import Dataset
from data_prep.reading.listing import Items, Listing, find_base, to_dataset, underscores_to_spaces
from data_prep.settings import DataArgs

GUIDE = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Layout:
    """Locations of a benchmark's files.

    Attributes:
        folders: The data set's folder in ``data.root``: CoOp's name, then torchvision's if it has the same layout.
        images: The folder in it that the split file's paths are relative to.
        split: The split file, in the data set's folder or in ``data.root``.
        template: The prompt template.
        marker: A file or folder that identifies the data set's folder, where ``images`` does not.
    """

    folders: tuple[str, ...]
    images: str
    split: str
    template: str = "a photo of a {}."
    marker: str = ""


LAYOUTS = {
    "caltech101": Layout(("caltech-101", "caltech101"), "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "oxford_pets": Layout(
        ("oxford_pets", "oxford-iiit-pet"),
        "images",
        "split_zhou_OxfordPets.json",
        "a photo of a {}, a type of pet.",
    ),
    "stanford_cars": Layout(("stanford_cars",), "", "split_zhou_StanfordCars.json", marker="cars_train"),
    "oxford_flowers": Layout(
        ("oxford_flowers", "flowers-102"),
        "jpg",
        "split_zhou_OxfordFlowers.json",
        "a photo of a {}, a type of flower.",
    ),
    "food101": Layout(("food-101",), "images", "split_zhou_Food101.json", "a photo of {}, a type of food."),
    "sun397": Layout(("sun397",), "SUN397", "split_zhou_SUN397.json"),
    "dtd": Layout(("dtd", "dtd/dtd"), "images", "split_zhou_DescribableTextures.json", "{} texture."),
    "eurosat": Layout(("eurosat",), "2750", "split_zhou_EuroSAT.json", "a centered satellite photo of {}."),
    "ucf101": Layout(("ucf101",), "UCF-101-midframes", "split_zhou_UCF101.json", "a photo of a person doing {}."),
}


def _find_split(args: DataArgs, base: Path, layout: Layout) -> Path:
    for path in (base / layout.split, Path(args.root) / layout.split):
        if path.is_file():
            return path
    raise UserError(f"{base / layout.split}: no such file; download {args.name}'s split file from {GUIDE}")


def _parse_entry(entry: object, where: str) -> tuple[str, int, str]:
    if not isinstance(entry, list) or [type(field) for field in entry] != [str, int, str]:
        raise UserError(f"{where}: {entry!r} should be [path, label, class name]; download the split file from {GUIDE}")
    return entry[0], entry[1], underscores_to_spaces(entry[2])


def read_split(path: Path) -> tuple[tuple[str, ...], dict[str, Items]]:
    """Reads a ``split_zhou_*.json`` file.

    Returns:
        tuple: Class names by label, and the images by split in the file's order.

    Raises:
        UserError: It is not a split file, a label has two names, or labels have gaps.
    """
    content = read_json(path, f"download it from {GUIDE}")
    if not isinstance(content, dict) or not all(isinstance(content.get(split), list) for split in SPLITS):
        raise UserError(f"{path}: needs the lists train, val and test; download it from {GUIDE}")
    names: dict[int, str] = {}
    splits: dict[str, Items] = {}
    for split in SPLITS:
        splits[split] = []
        for index, entry in enumerate(content[split]):
            image, label, name = _parse_entry(entry, f"{path}, {split}[{index}]")
            if names.setdefault(label, name) != name:
                raise UserError(f"{path}, {split}[{index}]: label {label} is both {name!r} and {names[label]!r}")
            splits[split].append((image, label))
    missing = sorted(set(range(len(names))) - names.keys())
    if missing:
        raise UserError(f"{path}: labels should count from 0, but none is {missing[0]}; download it from {GUIDE}")
    return tuple(names[label] for label in range(len(names))), splits


def read_coop(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads one of ``LAYOUTS``; ``data.root`` is the folder of all data sets, or of this one.

    Raises:
        UserError: Images or the split file are missing or malformed.
    """
    layout = LAYOUTS[args.name]
    base = find_base(args, layout.folders, layout.marker or layout.images, GUIDE)
    names, splits = read_split(_find_split(args, base, layout))
    return to_dataset(Listing(base / layout.images, names, splits, GUIDE, (layout.template,)), args, cache, parts)
