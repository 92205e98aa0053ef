"""Reader of ImageNet in CoOp's layout: class folders and ``classnames.txt``; its validation set is the test set."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.datasets.coop import GUIDE
from data_prep.reading.dataset import Dataset
from data_prep.reading.finding import class_folders, find_images, report_skipped
from data_prep.reading.listing import Items, Listing, find_base, read_pairs, to_dataset
from data_prep.settings import DataArgs

SOURCE = f"https://image-net.org (images) and {GUIDE} (classnames.txt)"


def _class_names(base: Path, root: Path) -> dict[str, str]:
    """Reads class names by folder, from ``classnames.txt`` in or above the images' folder."""
    candidates = [folder / "classnames.txt" for folder in (base, base.parent, root)]
    path = next((candidate for candidate in candidates if candidate.is_file()), candidates[1])
    return dict(read_pairs(path, SOURCE))


def _list_split(folder: Path, folders: list[str], passed: list[tuple[Path, str]]) -> Items:
    """Lists a split's images by class; adds the entries passed over to ``passed``.

    Within a class they are sorted by name, where CoOp uses the file system's order.
    """
    top = class_folders(folder)
    present = [path.name for path in top.files]
    if present != folders:
        difference = sorted(set(present) ^ set(folders))[0]
        raise UserError(
            f"{folder}: its class folders differ from train's, first in {difference}; both need a folder per class, "
            f"such as n01440764; download the data set from {SOURCE}"
        )
    passed += top.passed
    items: Items = []
    for label, name in enumerate(folders):
        findings = find_images(folder / name)
        items += [(path.relative_to(folder.parent).as_posix(), label) for path in findings.files]
        passed += findings.passed
    return items


def read_imagenet(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads ``imagenet/images/{train,val}``, or torchvision's ``{train,val}`` in one folder.

    Raises:
        UserError: A folder or ``classnames.txt`` is missing, or a class is not in it.
    """
    base = find_base(args, ("imagenet/images", "images", "imagenet"), "train", SOURCE)
    for split in ("train", "val"):
        if not (base / split).is_dir():
            raise UserError(f"{base / split}: no such folder; download the data set from {SOURCE}")
    folders = [path.name for path in class_folders(base / "train").files]
    name_of = _class_names(base, Path(args.root))
    unnamed = [folder for folder in folders if folder not in name_of]
    if unnamed:
        raise UserError(
            f"{base / 'train' / unnamed[0]}: classnames.txt has no such class; download the data set from {SOURCE}"
        )
    passed: list[tuple[Path, str]] = []
    splits = {
        split: _list_split(base / folder, folders, passed) for split, folder in (("train", "train"), ("test", "val"))
    }
    report_skipped(passed, cache)
    names = tuple(name_of[folder] for folder in folders)
    return to_dataset(Listing(base, names, splits, SOURCE, ("a photo of a {}.",)), args, cache, parts)
