"""Reads the few-shot splits that 2SFS publishes: which training images are the shots of a seed.

Source: Farina et al., CVPR 2025 (arXiv 2503.11609; https://github.com/FarinaMatteo/rethinking_fewshot_vlms). For CoOp's
eleven data sets, seeds 1 to 3 and 1, 2, 4, 8 and 16 shots, ``split_fewshot/shot_{n}-seed_{s}_train.jsonl`` in the data
set's folder has a JSON line per image: ``_impath``, relative to the folder of all data sets, ``_label``, ``_domain``
and ``_classname``. The validation files beside them are not read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.reading.dataset import log_once
from data_prep.reading.tables import read_records

log = logging.getLogger(__name__)

FOLDER = "split_fewshot"
_GUIDE = "download it from https://github.com/FarinaMatteo/rethinking_fewshot_vlms"


def _find_folder(samples: Sequence[Sample]) -> Path:
    """Finds the data set's folder: the nearest one above the images that has ``split_fewshot``."""
    image = Path(samples[0].path)
    for parent in image.parents:
        if (parent / FOLDER).is_dir():
            return parent
    raise UserError(f"data.draw=2sfs: no folder {FOLDER} above {image}; {_GUIDE} into the data set's folder")


def _parse(path: Path, line: int, record: Any) -> tuple[PurePosixPath, int]:
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("_impath"), str)
        or type(record.get("_label")) is not int
    ):
        raise UserError(f"{path}, line {line}: should have _impath and _label, a text and a whole number; {_GUIDE}")
    return PurePosixPath(record["_impath"].replace("\\", "/")), record["_label"]


def read_shot_file(samples: Sequence[Sample], shots: int, seed: int) -> list[Sample]:
    """Reads the shots of 2SFS's split, in the file's order.

    A class with fewer images than shots is listed with repeats; each image is returned once. Images that the data set
    has but this part has not, as they are unreadable, held out or evaluated too, are left out and counted in the log.

    Args:
        samples: The training split, with all of its classes.
        shots: Images per class.
        seed: The split's.

    Raises:
        UserError: There is no such file, or it is of another data set, names a missing image, or is malformed.
    """
    folder = _find_folder(samples)
    path = folder / FOLDER / f"shot_{shots}-seed_{seed}_train.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file; 2SFS has 1, 2, 4, 8 and 16 shots and seeds 1, 2 and 3; {_GUIDE}")
    by_path = {Path(sample.path).relative_to(folder).as_posix(): sample for sample in samples}
    selected: dict[str, Sample] = {}
    absent = []
    for line, record in read_records(path):
        image, label = _parse(path, line, record)
        # Relative to the folder of all data sets, whose name for this one may be another; or to this one's folder.
        inside = next((name for name in (_join(image.parts[1:]), _join(image.parts)) if name in by_path), None)
        if inside is None:
            if not any((folder / name).is_file() for name in (_join(image.parts[1:]), _join(image.parts))):
                raise UserError(f"{path}, line {line}: {image} is no image in {folder}; is it another data set's file?")
            absent.append(image)
            continue
        sample = by_path[inside]
        if sample.label != label:
            raise UserError(
                f"{path}, line {line}: {image} has label {label}, and {sample.label} in the data set; the files are of "
                "different versions"
            )
        selected[sample.key] = sample
    if not selected:
        raise UserError(f"{path}: has no image of this part; {_GUIDE}")
    if absent:
        message = f"{path}: {len(absent)} of its images are not in this part and left out, such as {absent[0]}"
        log_once(log, logging.WARNING, message)
    return list(selected.values())


def _join(parts: Sequence[str]) -> str:
    return PurePosixPath(*parts).as_posix()
