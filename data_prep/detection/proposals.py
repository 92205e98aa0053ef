"""Box proposals to classify: annotated boxes or a detector's boxes, as regions of their images."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.images import ImageError, display_size
from data_prep.detection.annotations import SOURCES, Annotations, image_file_name
from data_prep.embedding.regions import Region, clamp_boxes
from data_prep.reading.dataset import find_missing, hash_images
from data_prep.reading.tables import with_slashes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proposal:
    """A box to classify.

    Attributes:
        region: The region to crop, with the true label if it is known.
        image: Id of its image.
        bbox: Left, top, width and height in pixels as in the file; may extend outside the image.
        score: The detector's score, 0 to 1; 1 for an annotated box.
    """

    region: Region
    image: int
    bbox: tuple[float, float, float, float]
    score: float = 1.0


@dataclass(frozen=True)
class Proposals:
    """The box proposals of a file.

    Attributes:
        found: The proposals, in the order of the file's images.
        skipped: Number of boxes left out, by reason. Annotated ones still count as objects to detect.
    """

    found: list[Proposal]
    skipped: Counter = field(default_factory=Counter)


def read_annotated_boxes(annotations: Annotations, root: Path, cache: Path, on_error: str) -> Proposals:
    """Returns the annotated boxes, without crowd regions, which detectors need not find.

    Args:
        annotations: The annotation file.
        root: Folder that the image names are relative to.
        cache: Folder of caches.
        on_error: What to do about an image that cannot be read: ``skip`` (it is counted) or ``raise``.

    Raises:
        UserError: An image is missing, or no box is left.
    """
    labels, records, crowds = annotations.label_of, [], 0
    for record in annotations.truth["annotations"]:
        if record.get("iscrowd"):
            crowds += 1
        else:
            records.append((record["image_id"], record["bbox"], 1.0, labels[record["category_id"]]))
    return _make_proposals(annotations, records, root, cache, on_error, Counter({"crowd": crowds}))


def select_detected_boxes(
    annotations: Annotations, detections: Sequence[dict], max_per_image: int, root: Path, cache: Path, on_error: str
) -> Proposals:
    """Returns a detector's best boxes of each image; a repeated box counts once, with its highest score.

    Args:
        annotations: The annotation file of the images that the detector ran on.
        detections: The detector's results.
        max_per_image: Maximum number of boxes kept per image, the highest scores first.
        root: Folder that the image names are relative to.
        cache: Folder of caches.
        on_error: What to do about an image that cannot be read: ``skip`` (it is counted) or ``raise``.

    Raises:
        UserError: An image is missing, or no box is left.
    """
    by_image: dict[int, dict[tuple, float]] = defaultdict(dict)
    for record in sorted(detections, key=lambda record: -record["score"]):
        by_image[record["image_id"]].setdefault(tuple(record["bbox"]), record["score"])
    records, num_cut = [], 0
    for image_id, scores in by_image.items():
        selected = list(scores.items())[:max_per_image]
        num_cut += len(scores) - len(selected)
        records += [(image_id, box, score, -1) for box, score in selected]
    skipped = Counter({"beyond detection.max_proposals": num_cut})
    return _make_proposals(annotations, records, root, cache, on_error, skipped)


def _make_proposals(
    annotations: Annotations,
    records: list[tuple[int, Sequence[float], float, int]],
    root: Path,
    cache: Path,
    on_error: str,
    skipped: Counter,
) -> Proposals:
    """Makes proposals from records of image id, box, score and label."""
    by_image: dict[int, list[tuple]] = defaultdict(list)
    for record in records:
        by_image[record[0]].append(record)
    images = [image for image in annotations.truth["images"] if image["id"] in by_image]
    paths = [root / with_slashes(image_file_name(image), root) for image in images]
    proposals = []
    image_digests = _digest_images(annotations, paths, cache, on_error)
    for image, path, digest, size in zip(images, paths, image_digests, _read_sizes(paths), strict=True):
        image_records = by_image[image["id"]]
        reason = _skip_reason(image, path, digest, size, on_error)
        if reason:
            skipped[reason] += len(image_records)
            continue
        boxes = np.array([box for _, box, _, _ in image_records], np.float64)
        clamped, visible = clamp_boxes(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), *size)
        skipped["box without a pixel in its image"] += int((~visible).sum())
        for record, clamped_box, is_visible in zip(image_records, clamped.tolist(), visible, strict=True):
            if is_visible:
                image_id, box, score, label = record
                region = Region(str(path), digest, tuple(clamped_box), label)
                proposals.append(Proposal(region, image_id, tuple(box), score))
    skipped = +skipped
    if skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
        log.warning("boxes: left out %d of %d: %s", skipped.total(), skipped.total() + len(proposals), counts)
    if not proposals:
        raise UserError(f"{annotations.path}: no box is left to classify ({dict(skipped) or 'there are none'})")
    return Proposals(proposals, skipped)


def _digest_images(annotations: Annotations, paths: list[Path], cache: Path, on_error: str) -> list[str | None]:
    """Returns the SHA-256 of each image file; None for one that cannot be read."""
    missing = find_missing(paths)
    if missing:
        raise UserError(
            f"{missing[0]}: no such image ({len(missing)} of {len(paths)} are missing); pass as --images the folder "
            f"that the names in {annotations.path} are relative to. {SOURCES[annotations.format]}"
        )
    return hash_images(paths, cache, on_error)


def _read_sizes(paths: list[Path]) -> list[tuple[int, int] | None]:
    """Returns the width and height of each image as shown; None for one that cannot be read."""

    def read_size(path: Path) -> tuple[int, int] | None:
        try:
            return display_size(path)
        except ImageError:
            return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_size, paths))


def _skip_reason(image: dict, path: Path, digest: str | None, size: tuple | None, on_error: str) -> str | None:
    """Returns why no box of an image can be cropped, or None."""
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
