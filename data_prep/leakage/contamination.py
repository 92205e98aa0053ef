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


def drop_evaluated(dataset: Dataset, part: str, policy: str, setting: str) -> Dataset:
    """Returns the data set without images of a part whose bytes are those of an evaluated image.

    Args:
        dataset: With the part and the evaluated parts that were read.
        part: ``train``, which may hold no evaluated image; or a memory, which may hold none of its own split.
        policy: ``error`` or ``skip``.
        setting: The setting that gives the policy, for the error message.

    Raises:
        UserError: There are such images and the policy is ``error``, or no image of the part is left.
    """
    samples = dataset.parts[part]
    splits = EVALUATED if part == "train" else (part.removesuffix("_memory"),)
    evaluated = {s.digest: (s.path, split) for split in splits for s in dataset.parts.get(split, ())}
    copies = [sample for sample in samples if sample.digest in evaluated]
    if not copies:
        return dataset
    path, split = evaluated[copies[0].digest]
    found = (
        f"{len(copies)} of {len(samples)} images of {part} are evaluated too, byte for byte; {copies[0].path} is in "
        f"{split} as {path}"
    )
    if len(copies) == len(samples):
        raise UserError(f"{dataset.name}: {found}; nothing would be left of {part}: divide the images again")
    if policy == "error":
        raise UserError(f"{dataset.name}: {found}. Set {setting}=skip to leave them out of {part}, or move the files")
    log.warning("%s: left out of %s: %s", dataset.name, part, found)
    remaining = [sample for sample in samples if sample.digest not in evaluated]
    pools = dict(dataset.pools)
    if part in pools:  # or shots would be sampled that are left out
        pools[part] = [sample for sample in pools[part] if sample.digest not in evaluated]
    skipped = dataset.skipped + Counter({f"{part} image that is evaluated too": len(copies)})
    return replace(dataset, parts=dataset.parts | {part: remaining}, pools=pools, skipped=skipped)


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


def find_mined(run: Path, samples: Sequence[Sample], split: str) -> list[Sample]:
    """Returns the images that the run was trained on; none, and a warning, where it has no list of mined images.

    Args:
        run: The run's folder, into which training copied the list of mined images.
        samples: The images to evaluate.
        split: The name of their part.
    """
    if not (run / MINED).exists():
        log.warning("%s: no list of mined images (%s), so a leak into %s would not be detected", run, MINED, split)
        return []
    mined = read_mined(run)
    return [sample for sample in samples if sample.digest in mined]


def drop_mined(run: Path, dataset: Dataset, split: str, policy: str) -> Dataset:
    """Returns the data set without the images of a split that the run was trained on.

    Args:
        run: The run's folder.
        dataset: With the split.
        split: Name of the evaluated part.
        policy: ``eval.leaks``: ``error``, ``skip``, or ``allow``, which leaves out nothing.

    Raises:
        UserError: There are such images and the policy is ``error``, or no image of the split is left.
    """
    samples = dataset.parts[split]
    leaked = [] if policy == "allow" else find_mined(run, samples, split)
    if not leaked:
        return dataset
    found = f"{len(leaked)} of {len(samples)} images of {split} were mined for its training; the first is "
    found += leaked[0].path
    if policy == "error" or len(leaked) == len(samples):
        remedies = ["eval.leaks=skip to leave them out"] * (len(leaked) < len(samples))
        remedies += ["eval.leaks=allow to keep and count them"]
        raise UserError(f"{run}: {found}. Set {', or '.join(remedies)}")
    log.warning("%s: left out of %s: %s", run, split, found)
    digests = {sample.digest for sample in leaked}
    remaining = [sample for sample in samples if sample.digest not in digests]
    skipped = dataset.skipped + Counter({f"{split} image that was mined": len(leaked)})
    return replace(dataset, parts=dataset.parts | {split: remaining}, skipped=skipped)
