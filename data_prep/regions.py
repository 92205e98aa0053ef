"""Regions: objects cut out of their images for the retriever, as the paper does it for detection.

Around each box a square is cut, wider for a small object, since little is seen in it alone; it is
resized, and what is not the object is blurred, so that it gives context without distracting.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from data_prep.errors import UserError
from data_prep.files import file_hash, read_json
from data_prep.images import open_image
from data_prep.settings import RegionArgs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Region:
    """An object in an image.

    Attributes:
        key: Unique in its file.
        path: The image file.
        digest: SHA-256 of the image file.
        box: Left, top, right and bottom in pixels of the image as a viewer shows it; inside the image.
        label: Index into the class names; -1 where the class is not known.
    """

    key: str
    path: str
    digest: str
    box: tuple[float, float, float, float]
    label: int = -1


@dataclass(frozen=True)
class Regions:
    """What a file of boxes gave.

    Attributes:
        regions: The objects.
        names: Class names by label.
        categories: The file's category id by label.
        skipped: How many annotations were left out, by reason.
    """

    regions: list[Region]
    names: tuple[str, ...]
    categories: tuple[int, ...]
    skipped: Counter = field(default_factory=Counter)


def clamp_boxes(boxes: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Clamps boxes to their image.

    Args:
        boxes: Left, top, right, bottom, shape ``[n, 4]``.
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Returns:
        tuple: Clamped boxes ``[n, 4]``, and a bool for each, shape ``[n]``: whether at least one
        pixel by one is left of it. Boxes that are not finite, inverted or outside are not.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    finite = np.isfinite(boxes).all(1)
    clamped = np.clip(np.where(finite[:, None], boxes, 0), 0, [width, height, width, height])
    return clamped, finite & (clamped[:, 2] - clamped[:, 0] >= 1) & (clamped[:, 3] - clamped[:, 1] >= 1)


def crop_scales(boxes: np.ndarray, args: RegionArgs) -> np.ndarray:
    """How wide each crop is, over its object's longer side: falls with the object's size.

    Args:
        boxes: Left, top, right, bottom, shape ``[n, 4]``.
        args: Sizes and scales.

    Returns:
        np.ndarray: Shape ``[n]``, between ``scale_large`` and ``scale_small``.
    """
    sizes = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    place = np.log(sizes / args.small) / np.log(args.large / args.small)
    return args.scale_small + np.clip(place, 0, 1) * (args.scale_large - args.scale_small)


def crop_windows(boxes: np.ndarray, width: int, height: int, args: RegionArgs) -> np.ndarray:
    """The window that is cut out for each box.

    A window is a square around the box's centre. Where it passes the image's border it is moved
    inside, and where it is larger than the image it is cut to it.

    Args:
        boxes: Clamped boxes, shape ``[n, 4]``.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        args: Sizes and scales.

    Returns:
        np.ndarray: Left, top, right, bottom in whole pixels, int, shape ``[n, 4]``; each holds its box.
    """
    longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    side = np.ceil(longer * crop_scales(boxes, args))[:, None]
    extent = np.array([[width, height]])
    side = np.minimum(side, extent)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    first = np.clip(np.floor(centre - side / 2), 0, extent - side)
    # Rounding must not cut a box's edge off.
    low = np.minimum(first, np.floor(boxes[:, :2]))
    high = np.minimum(np.maximum(first + side, np.ceil(boxes[:, 2:])), extent)
    return np.concatenate([low, high], 1).astype(int)


def cut_regions(image: Image.Image, boxes: np.ndarray, args: RegionArgs) -> np.ndarray:
    """Cuts objects out of an image.

    Args:
        image: In mode RGB.
        boxes: Clamped boxes, shape ``[n, 4]``.
        args: Sizes, scales and blur.

    Returns:
        np.ndarray: uint8 pixels of shape ``[n, size, size, 3]``: the window, sharp inside the box.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    windows = crop_windows(boxes, image.width, image.height, args)
    cut = np.empty((len(boxes), args.size, args.size, 3), np.uint8)
    scale = args.size / (windows[:, 2:] - windows[:, :2])
    low = np.floor((boxes[:, :2] - windows[:, :2]) * scale).astype(int)
    high = np.ceil((boxes[:, 2:] - windows[:, :2]) * scale).astype(int)
    for number, window in enumerate(windows):
        sharp = image.crop(tuple(window.tolist())).resize((args.size, args.size), Image.BICUBIC)
        if args.blur:
            box = (*low[number].tolist(), *high[number].tolist())
            shown = sharp.filter(ImageFilter.GaussianBlur(args.blur * args.size))
            shown.paste(sharp.crop(box), box[:2])
            sharp = shown
        cut[number] = np.asarray(sharp)
    return cut


def open_region(region: Region, args: RegionArgs) -> Image.Image:
    """Opens a region's image and cuts the region out."""
    return Image.fromarray(cut_regions(open_image(region.path), np.array([region.box]), args)[0])


def _image_path(record: dict, root: Path) -> Path:
    """COCO names a file; LVIS only an address, whose last two parts are split and file."""
    name = record.get("file_name") or "/".join(str(record.get("coco_url", "")).split("/")[-2:])
    return root / name


def _listed(value: dict, key: str, path: Path) -> list[dict]:
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise UserError(
            f"{path}: has no list of {key}; it must be COCO-style JSON with images, annotations, categories"
        )
    return value[key]


def read_regions(path: Path, root: Path) -> Regions:
    """Reads boxes from COCO- or LVIS-style JSON, whose boxes are ``[left, top, width, height]``.

    Args:
        path: The JSON file.
        root: Folder that the images' names are relative to.

    Returns:
        Regions: Sorted as in the file; what is left out is counted by reason and logged: boxes of
        which no pixel lies in the image, crowds, images that are missing or cannot be shown.

    Raises:
        UserError: The file is missing or has another structure.
    """
    value = read_json(path)
    categories = sorted(_listed(value, "categories", path), key=lambda record: record["id"])
    label_of = {record["id"]: label for label, record in enumerate(categories)}
    images = {record["id"]: record for record in _listed(value, "images", path)}
    skipped: Counter = Counter()
    by_image: dict[int, list[dict]] = {}
    for annotation in _listed(value, "annotations", path):
        reason = _unfit(annotation, images, label_of)
        if reason:
            skipped[reason] += 1
        else:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
    found: list[Region] = []
    places = [_image_path(images[image_id], root) for image_id in by_image]
    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(_look, places))
    for own, place, look in zip(by_image.values(), places, looks, strict=True):
        if look is None:
            skipped["image missing or not readable"] += len(own)
            continue
        size, digest = look
        boxes = np.array([annotation["bbox"] for annotation in own], np.float64)
        boxes[:, 2:] += boxes[:, :2]
        clamped, fit = clamp_boxes(boxes, *size)
        skipped["degenerate box"] += int((~fit).sum())
        found += [
            Region(str(a["id"]), str(place), digest, tuple(box), label_of[a["category_id"]])
            for a, box, kept in zip(own, clamped.tolist(), fit, strict=True)
            if kept
        ]
    if +skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in (+skipped).most_common())
        log.warning("regions: left out %d of %d annotations: %s", skipped.total(), skipped.total() + len(found), counts)
    names = tuple(str(record["name"]) for record in categories)
    return Regions(found, names, tuple(record["id"] for record in categories), +skipped)


def _look(path: Path) -> tuple[tuple[int, int], str] | None:
    """Width, height and digest of an image, or None where it cannot be shown."""
    try:
        return open_image(path).size, file_hash(path)
    except UserError as error:
        log.warning("regions: %s", error)
        return None


def _unfit(annotation: dict, images: dict, label_of: dict) -> str | None:
    """Why an annotation gives no region, as far as its record tells."""
    box = annotation.get("bbox")
    if annotation.get("image_id") not in images:
        return "unknown image"
    if annotation.get("category_id") not in label_of:
        return "unknown category"
    if annotation.get("iscrowd"):
        return "crowd"
    if not isinstance(box, Sequence) or len(box) != 4 or not all(isinstance(x, int | float) for x in box):
        return "degenerate box"
    return None
