"""Boxes to be named: those of an annotation file, or those of a detector, as regions of their images."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.images import ImageError, shown_size
from data_prep.detection.annotations import SOURCES, Annotations, image_name
from data_prep.embedding.regions import Region, clamp_boxes
from data_prep.reading.dataset import digests, find_missing
from data_prep.reading.tables import with_slashes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proposal:
    """A box to be named.

    Attributes:
        region: What is cut out, with the true label where it is known.
        image: Id of its image.
        bbox: Left, top, width and height as the file gives them, which may reach out of the image.
        score: A detector's; 1 for an annotated box.
    """

    region: Region
    image: int
    bbox: tuple[float, float, float, float]
    score: float = 1.0


@dataclass(frozen=True)
class Proposals:
    """The boxes of a file.

    Attributes:
        found: In the order of the file's images.
        skipped: How many boxes were left out, by reason. Annotated ones still count as objects to be found.
    """

    found: list[Proposal]
    skipped: Counter = field(default_factory=Counter)


def annotated_boxes(annotations: Annotations, root: Path, cache: Path, on_error: str) -> Proposals:
    """The annotated boxes; crowds are left out, as detectors need not find them.

    Args:
        annotations: The file.
        root: Folder that its images' names are relative to.
        cache: Folder of caches.
        on_error: An image that cannot be shown: ``skip`` (counted) or ``raise``.

    Raises:
        UserError: An image is missing, or no box is left.
    """
    labels, records, crowds = annotations.label_of, [], 0
    for record in annotations.truth["annotations"]:
        if record.get("iscrowd"):
            crowds += 1
        else:
            records.append((record["image_id"], record["bbox"], 1.0, labels[record["category_id"]]))
    return _proposals(annotations, records, root, cache, on_error, Counter({"crowd": crowds}))


def detected_boxes(
    annotations: Annotations, detections: Sequence[dict], most: int, root: Path, cache: Path, on_error: str
) -> Proposals:
    """A detector's boxes: the best of each image; a box that it names twice counts once, with its higher score.

    Args:
        annotations: The file whose images were searched.
        detections: The detector's results.
        most: Boxes of an image.
        root: Folder that the images' names are relative to.
        cache: Folder of caches.
        on_error: An image that cannot be shown: ``skip`` (counted) or ``raise``.

    Raises:
        UserError: An image is missing, or no box is left.
    """
    by_image: dict[int, dict[tuple, float]] = defaultdict(dict)
    for record in sorted(detections, key=lambda record: -record["score"]):
        by_image[record["image_id"]].setdefault(tuple(record["bbox"]), record["score"])
    records, cut = [], 0
    for image, boxes in by_image.items():
        kept = list(boxes.items())[:most]
        cut += len(boxes) - len(kept)
        records += [(image, box, score, -1) for box, score in kept]
    return _proposals(annotations, records, root, cache, on_error, Counter({"beyond detection.max_proposals": cut}))


def _proposals(
    annotations: Annotations,
    records: list[tuple[int, Sequence[float], float, int]],
    root: Path,
    cache: Path,
    on_error: str,
    skipped: Counter,
) -> Proposals:
    """Regions of records of image id, box, score and label."""
    by_image: dict[int, list[tuple]] = defaultdict(list)
    for record in records:
        by_image[record[0]].append(record)
    images = [image for image in annotations.truth["images"] if image["id"] in by_image]
    paths = [root / with_slashes(image_name(image), root) for image in images]
    found = []
    contents = _contents(annotations, paths, cache, on_error)
    for image, path, digest, size in zip(images, paths, contents, _sizes(paths), strict=True):
        own = by_image[image["id"]]
        reason = _unfit(image, path, digest, size, on_error)
        if reason:
            skipped[reason] += len(own)
            continue
        boxes = np.array([box for _, box, _, _ in own], np.float64)
        clamped, fit = clamp_boxes(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), *size)
        skipped["box without a pixel in its image"] += int((~fit).sum())
        for (number, box, score, label), inside, shown in zip(own, clamped.tolist(), fit, strict=True):
            if shown:
                region = Region(str(path), digest, tuple(inside), label)
                found.append(Proposal(region, number, tuple(box), score))
    skipped = +skipped
    if skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
        log.warning("boxes: left out %d of %d: %s", skipped.total(), skipped.total() + len(found), counts)
    if not found:
        raise UserError(f"{annotations.path}: no box is left to name ({dict(skipped) or 'there are none'})")
    return Proposals(found, skipped)


def _contents(annotations: Annotations, paths: list[Path], cache: Path, on_error: str) -> list[str | None]:
    """SHA-256 of the images; None where one cannot be shown."""
    missing = find_missing(paths)
    if missing:
        raise UserError(
            f"{missing[0]}: no such image ({len(missing)} of {len(paths)} are missing); give as --images the folder "
            f"that the names in {annotations.path} are relative to. {SOURCES[annotations.format]}"
        )
    return digests(paths, cache, on_error)


def _sizes(paths: list[Path]) -> list[tuple[int, int] | None]:
    def size(path: Path) -> tuple[int, int] | None:
        try:
            return shown_size(path)
        except ImageError:
            return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(size, paths))


def _unfit(image: dict, path: Path, digest: str | None, size: tuple | None, on_error: str) -> str | None:
    """Why no box of an image can be cut out."""
    if digest is None or size is None:
        return "image not readable"
    if size == (image["width"], image["height"]):
        return None
    if on_error == "raise":
        raise UserError(
            f"{path}: is {size[0]} x {size[1]} pixels as shown, but {image['width']} x {image['height']} by its "
            "record, so its boxes would not fit; get the original image, or set data.on_error=skip"
        )
    return "image of another size than its record says"
