"""Reader of FGVC-Aircraft by variant: its own lists, in CoOp's folder, torchvision's, or the archive's.

CoOp uses the official lists in their order, so it has no split file for this data set.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.reading.dataset import Dataset
from data_prep.reading.listing import Listing, find_base, read_lines, read_pairs, to_dataset
from data_prep.settings import DataArgs

SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
FOLDERS = ("fgvc_aircraft", "fgvc-aircraft-2013b/data")


def read_fgvc_aircraft(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads ``variants.txt``, ``images_variant_{train,val,test}.txt`` and ``images/``.

    Raises:
        UserError: A list is missing or names an unknown variant, or images are missing or unreadable.
    """
    base = find_base(args, FOLDERS, "variants.txt", SOURCE)
    names = read_lines(base / "variants.txt", SOURCE)
    label_of = {name: label for label, name in enumerate(names)}
    splits = {}
    for split in ("train", "val", "test"):
        list_file = base / f"images_variant_{split}.txt"
        pairs = read_pairs(list_file, SOURCE)
        unknown = [name for _, name in pairs if name not in label_of]
        if unknown:
            raise UserError(f"{list_file}: {unknown[0]!r} is not in variants.txt; download the data set from {SOURCE}")
        splits[split] = [(f"images/{image}.jpg", label_of[name]) for image, name in pairs]
    templates = ("a photo of a {}, a type of aircraft.",)
    return to_dataset(Listing(base, tuple(names), splits, SOURCE, templates), args, cache, parts)
