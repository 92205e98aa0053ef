"""ImageNet in CoOp's layout: ``classnames.txt`` beside folders of classes; the validation set is the test set."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.datasets.coop import GUIDE
from data_prep.reading.dataset import Dataset
from data_prep.reading.finding import class_folders, find_pictures, report_passed
from data_prep.reading.listing import Items, Listing, find_base, read_pairs, to_dataset
from data_prep.settings import DataArgs

SOURCE = f"https://image-net.org (images) and {GUIDE} (classnames.txt)"


def _class_names(base: Path, root: Path) -> dict[str, str]:
    """Class names by folder, from ``classnames.txt`` near the images."""
    places = [folder / "classnames.txt" for folder in (base, base.parent, root)]
    path = next((place for place in places if place.is_file()), places[1])
    return dict(read_pairs(path, SOURCE))


def _split(folder: Path, folders: list[str], passed: list[tuple[Path, str]]) -> Items:
    """A split's images, class by class. CoOp takes the file system's order within a class; here it is by name."""
    top = class_folders(folder)
    found = [path.name for path in top.files]
    if found != folders:
        strange = sorted(set(found) ^ set(folders))[0]
        raise UserError(
            f"{folder}: its class folders differ from train's, first in {strange}; both need a folder per class, "
            f"such as n01440764; the data set is had from {SOURCE}"
        )
    passed += top.passed
    items: Items = []
    for label, name in enumerate(folders):
        inside = find_pictures(folder / name)
        items += [(path.relative_to(folder.parent).as_posix(), label) for path in inside.files]
        passed += inside.passed
    return items


def read_imagenet(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads ``imagenet/images/{train,val}``, or torchvision's ``{train,val}`` in one folder.

    Raises:
        UserError: A folder or ``classnames.txt`` is missing, or a class is not in it.
    """
    base = find_base(args, ("imagenet/images", "images", "imagenet"), "train", SOURCE)
    for split in ("train", "val"):
        if not (base / split).is_dir():
            raise UserError(f"{base / split}: no such folder; the data set is had from {SOURCE}")
    folders = [path.name for path in class_folders(base / "train").files]
    name_of = _class_names(base, Path(args.root))
    nameless = [folder for folder in folders if folder not in name_of]
    if nameless:
        raise UserError(f"{base / 'train' / nameless[0]}: classnames.txt has no such class; had from {SOURCE}")
    passed: list[tuple[Path, str]] = []
    splits = {split: _split(base / folder, folders, passed) for split, folder in (("train", "train"), ("test", "val"))}
    report_passed(passed, cache)
    names = tuple(name_of[folder] for folder in folders)
    return to_dataset(Listing(base, names, splits, SOURCE, ("a photo of a {}.",)), args, cache, parts)
