"""Reader of RAF-DB, basic emotions: ``EmoLabel/list_patition_label.txt`` (sic) and the aligned faces."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.reading.dataset import Dataset
from data_prep.reading.listing import Items, Listing, find_base, read_pairs, to_dataset
from data_prep.settings import DataArgs

SOURCE = "http://www.whdld.cn/RAF/model1.html (on request)"
NAMES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
LIST = "EmoLabel/list_patition_label.txt"
FOLDERS = ("raf-db/basic", "RAF-DB/basic", "raf_db/basic", "basic", "raf-db", "RAF-DB", "raf_db")


def read_raf_db(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads the list; an image named ``train_00001.jpg`` there is ``Image/aligned/train_00001_aligned.jpg``.

    Raises:
        UserError: The list is missing or names other splits or emotions, or images are missing or unreadable.
    """
    base = find_base(args, FOLDERS, LIST, SOURCE)
    splits: dict[str, Items] = {"train": [], "test": []}
    for image, label in read_pairs(base / LIST, SOURCE):
        split = image.split("_")[0]
        if split not in splits or not label.isdigit() or not 1 <= int(label) <= len(NAMES):
            raise UserError(
                f"{base / LIST}: '{image} {label}' should be like 'train_00001.jpg 5'; download the data set from "
                f"{SOURCE}"
            )
        splits[split].append((f"Image/aligned/{Path(image).stem}_aligned.jpg", int(label) - 1))
    return to_dataset(Listing(base, NAMES, splits, SOURCE, ("a photo of a {}.",)), args, cache, parts)
