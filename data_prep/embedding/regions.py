"""Region crops: cuts objects out of their images for the retriever, as in the paper's detection setting.

A square is cut around each box, relatively wider for small objects, which show little by themselves. The crop is
resized, and everything outside the box is blurred, so that it gives context without distracting.
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
    """An object in an image, given by its box.

    Attributes:
        path: The image file.
        digest: SHA-256 of the image file.
        box: Left, top, right and bottom in pixels of the image as displayed (EXIF orientation applied); inside the
            image.
        label: Index into the class names; -1 where the class is not known.
    """

    path: str
    digest: str
    box: tuple[float, float, float, float]
    label: int = -1


def clamp_boxes(boxes: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Clamps boxes to their image, and marks those of which at least one pixel is left.

    Args:
        boxes: Left, top, right, bottom, shape ``[n, 4]``.
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        tuple: Clamped boxes ``[n, 4]``, and a bool for each, shape ``[n]``: whether at least 1 by 1 pixel of it is
        left. False for boxes that are not finite, inverted or outside the image.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    finite = np.isfinite(boxes).all(1)
    clamped = np.clip(np.where(finite[:, None], boxes, 0), 0, [width, height, width, height])
    pixel = 1 - 1e-9 * max(width, height)  # tolerates rounding in a right edge computed as left + width
    sides = clamped[:, 2:] - clamped[:, :2]
    return clamped, finite & (sides >= pixel).all(1)


def crop_scales(boxes: np.ndarray, args: RegionArgs) -> np.ndarray:
    """Returns each crop's width as a multiple of its object's longer side; it falls with the object's size.

    Args:
        boxes: Left, top, right, bottom, shape ``[n, 4]``.
        args: Region sizes and scales.

    Returns:
        np.ndarray: Shape ``[n]``, between ``scale_large`` and ``scale_small``.
    """
    sizes = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    fraction = np.log(sizes / args.small) / np.log(args.large / args.small)
    return args.scale_small + np.clip(fraction, 0, 1) * (args.scale_large - args.scale_small)


def crop_windows(boxes: np.ndarray, width: int, height: int, args: RegionArgs) -> np.ndarray:
    """Computes the crop window for each box.

    A window is a square around the box's centre. Where it crosses the image's border it is moved inside, and where it
    is larger than the image it is clipped to it.

    Args:
        boxes: Clamped boxes, shape ``[n, 4]``.
        width: Image width in pixels.
        height: Image height in pixels.
        args: Region sizes and scales.

    Returns:
        np.ndarray: Left, top, right, bottom in pixels, int, shape ``[n, 4]``; each contains its box.
    """
    longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    side = np.ceil(longer * crop_scales(boxes, args))[:, None]
    extent = np.array([[width, height]])
    side = np.minimum(side, extent)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    first = np.clip(np.floor(centre - side / 2), 0, extent - side)
    # Rounding must not clip a box's edge.
    low = np.minimum(first, np.floor(boxes[:, :2]))
    high = np.minimum(np.maximum(first + side, np.ceil(boxes[:, 2:])), extent)
    return np.concatenate([low, high], 1).astype(int)


def cut_regions(image: Image.Image, boxes: np.ndarray, args: RegionArgs) -> np.ndarray:
    """Crops and resizes objects of an image, and blurs what is outside their boxes.

    Args:
        image: Image in mode RGB.
        boxes: Clamped boxes, shape ``[n, 4]``.
        args: Region sizes, scales and blur.

    Returns:
        np.ndarray: uint8 pixels of shape ``[n, size, size, 3]``: the window, sharp inside the box.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    windows = crop_windows(boxes, image.width, image.height, args)
    crops = np.empty((len(boxes), args.size, args.size, 3), np.uint8)
    scale = args.size / (windows[:, 2:] - windows[:, :2])
    low = np.floor((boxes[:, :2] - windows[:, :2]) * scale).astype(int)
    high = np.ceil((boxes[:, 2:] - windows[:, :2]) * scale).astype(int)
    for index, window in enumerate(windows):
        crop = image.crop(tuple(window.tolist())).resize((args.size, args.size), Image.BICUBIC)
        if args.blur:
            box = (*low[index].tolist(), *high[index].tolist())
            blurred = crop.filter(ImageFilter.GaussianBlur(args.blur * args.size))
            blurred.paste(crop.crop(box), box[:2])
            crop = blurred
        crops[index] = np.asarray(crop)
    return crops


def region_key(region: Region, args: RegionArgs) -> str:
    """Returns the cache key of a region's crop: a hash of its image's digest, its box and the region settings."""
    settings = [VERSION, asdict(args)]
    return hashlib.sha256(json.dumps([region.digest, *region.box, settings]).encode()).hexdigest()


@lru_cache(maxsize=2)
def _open_cached(path: str, digest: str) -> Image.Image:
    """Opens an image; cached, since the regions of an image mostly follow one another."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{path}: has changed since its boxes were read; run the command again")
    return open_image(data, path)


def open_region(region: Region, args: RegionArgs) -> Image.Image:
    """Opens a region's image and returns the region's crop.

    Raises:
        UserError: The image is missing, does not decode, or has changed since the boxes were read.
    """
    return Image.fromarray(cut_regions(_open_cached(region.path, region.digest), np.array([region.box]), args)[0])


@dataclass(frozen=True)
class LazyRegion:
    """A region whose crop is made lazily, when it is opened.

    Attributes:
        region: The region.
        args: Region settings of the crop.
    """

    region: Region
    args: RegionArgs

    def open(self) -> Image.Image:
        """Returns the crop; see ``open_region``."""
        return open_region(self.region, self.args)
