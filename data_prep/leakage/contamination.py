"""Checks, in mining and in evaluation, that no training image is evaluated too; compares by content."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, write_text
from data_prep.core.records import Sample
from data_prep.datasets import Dataset

log = logging.getLogger(__name__)

EVALUATED = ("val", "test")
MINED = "mined.txt"


def drop_evaluated(dataset: Dataset, policy: str) -> Dataset:
    """Returns the data set without training images whose bytes are those of an evaluated image.

    Args:
        dataset: With ``train`` and the evaluated parts that were read.
        policy: ``mining.evaluated_copies``: ``error`` or ``skip``.

    Raises:
        UserError: There are such images and the policy is ``error``, or no training image is left.
    """
    train = dataset.parts["train"]
    evaluated = {s.digest: part for part in EVALUATED for s in dataset.parts.get(part, ())}
    copies = [sample for sample in train if sample.digest in evaluated]
    if not copies:
        return dataset
    first = f"{copies[0].path} is in {evaluated[copies[0].digest]}"
    if policy == "error" or len(copies) == len(train):
        raise UserError(
            f"mining {dataset.name}: {len(copies)} of {len(train)} training images are evaluated too, byte for byte; "
            f"{first}. Fix the splits, or exclude these images from training with mining.evaluated_copies=skip"
        )
    log.warning("mining: left out %d training images that are evaluated too; %s", len(copies), first)
    remaining = [sample for sample in train if sample.digest not in evaluated]
    skipped = dataset.skipped + Counter({"training image that is evaluated too": len(copies)})
    return replace(dataset, parts=dataset.parts | {"train": remaining}, skipped=skipped)


def write_mined(folder: Path, digests: Iterable[str]) -> dict:
    """Writes the digests of the mined images.

    Args:
        folder: Where ``mined.txt`` is written.
        digests: SHA-256 of the image files; duplicates are written once.

    Returns:
        dict: For the manifest: the number of distinct digests, and a hash of them all.
    """
    distinct = sorted(set(digests))
    write_text(folder / MINED, (f"{line}\n" for line in (_seal(distinct), *distinct)))
    return {"images": len(distinct), "hash": fingerprint(distinct)}


def _seal(digests: list[str]) -> str:
    """Returns the first line of the list: a checksum of the other lines."""
    return f"sha256 {hashlib.sha256(' '.join(digests).encode()).hexdigest()}"


def read_mined(folder: Path) -> set[str]:
    """Returns the digests that ``write_mined`` wrote; an empty set if the file is missing.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / MINED
    if not path.exists():
        return set()
    first, *digests = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if first != _seal(digests):
        raise UserError(
            f"{path}: damaged (its checksum differs); leaks could not be detected. The same file is in the folder of "
            "examples: a run's data.json names it under train, and python -m data_prep.build makes it again"
        )
    return set(digests)


def check_not_mined(run: Path, samples: Sequence[Sample], split: str) -> None:
    """Refuses to evaluate on images that the run was trained on.

    Args:
        run: The run's folder, into which training copied the list of mined images.
        samples: The images to evaluate.
        split: The name of their part.

    Raises:
        UserError: Some of them were mined.
    """
    if not (run / MINED).exists():
        log.warning("%s: no list of mined images (%s), so a leak into %s would not be detected", run, MINED, split)
        return
    mined = read_mined(run)
    leaked = [sample for sample in samples if sample.digest in mined]
    if leaked:
        raise UserError(
            f"{run}: {len(leaked)} of {len(samples)} images of {split} were mined for its training; the first is "
            f"{leaked[0].path}. Train again without them (mining.evaluated_copies=skip), evaluate on other images, or "
            "set eval.leaks=allow to have them counted"
        )
