"""Regions: objects cut out of their images for the retriever, as the paper does it for detection.

Around each box a square is cut, wider for a small object, since little is seen in it alone; it is
resized, and what is not the object is blurred, so that it gives context without distracting.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from data_prep.core.errors import UserError
from data_prep.core.images import VERSION, open_image
from data_prep.settings import RegionArgs


@dataclass(frozen=True)
class Region:
    """An object in an image.

    Attributes:
        path: The image file.
        digest: SHA-256 of the image file.
        box: Left, top, right and bottom in pixels of the image as a viewer shows it; inside the image.
        label: Index into the class names; -1 where the class is not known.
    """

    path: str
    digest: str
    box: tuple[float, float, float, float]
    label: int = -1


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
    pixel = 1 - 1e-9 * max(width, height)  # a right edge that was added up to may have been rounded down
    sides = clamped[:, 2:] - clamped[:, :2]
    return clamped, finite & (sides >= pixel).all(1)


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


def region_key(region: Region, args: RegionArgs) -> str:
    """Identifies what is seen of a region: by its image's content, its box, and how it is cut."""
    cut = [VERSION, asdict(args)]
    return hashlib.sha256(json.dumps([region.digest, *region.box, cut]).encode()).hexdigest()


@lru_cache(maxsize=2)
def _opened(path: str, digest: str) -> Image.Image:
    """An image's regions mostly follow one another, so it is decoded once for all."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{path}: has changed since its boxes were read; run the command again")
    return open_image(data, path)


def open_region(region: Region, args: RegionArgs) -> Image.Image:
    """Opens a region's image and cuts the region out.

    Raises:
        UserError: The image is missing, does not decode, or is not what it was when the boxes were read.
    """
    return Image.fromarray(cut_regions(_opened(region.path, region.digest), np.array([region.box]), args)[0])


@dataclass(frozen=True)
class Cut:
    """A region as a picture that is made where it is looked at.

    Attributes:
        region: The region.
        args: How it is cut out.
    """

    region: Region
    args: RegionArgs

    def open(self) -> Image.Image:
        """Cuts it out; see ``open_region``."""
        return open_region(self.region, self.args)
