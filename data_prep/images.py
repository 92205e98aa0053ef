"""Opens an image as a viewer shows it, or says why it cannot be shown.

Every place that shows a picture to a model opens it here, so that the retriever and the ranker see
the same pixels: turned by the orientation that the camera noted, without transparency, the first
frame of an animation, 16 bits scaled to 8, printing colours converted by their own profile.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from data_prep.errors import UserError

VERSION = 1
"""Of these rules: raise it when pixels change. The encoder's id carries it, so embeddings follow."""

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as on a page."""

MOST_PIXELS = 178_956_970
"""A larger image is refused before it is decoded, as a decompression bomb: the bound above which Pillow raises."""


class ImageError(UserError):
    """An image that cannot be shown.

    Attributes:
        reason: In a few words, for counts.
    """

    def __init__(self, source: str, reason: str):
        super().__init__(f"{source}: not readable as an image: {reason}")
        self.reason = reason


def _reason(error: Exception) -> str:
    """What is wrong, without the parts of Pillow's messages that differ from file to file."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, Image.DecompressionBombError):
        return f"a decompression bomb of more than {MOST_PIXELS:,} pixels"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "truncated" if "truncated" in text or "Truncated" in text else text


def _from_deep(image: Image.Image) -> Image.Image:
    """Scales grey values of more than 8 bits to 8, where white is 65535."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or (values.size and (values.min() < 0 or values.max() > 65535)):
        raise ValueError(f"values of mode {image.mode} have no defined white; save it with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _from_print(image: Image.Image) -> Image.Image:
    """Converts CMYK by the embedded profile where there is one."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile: viewers fall back to the plain conversion too
    return image.convert("RGB")


def _on_background(image: Image.Image) -> Image.Image:
    opaque = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    if image.mode == "CMYK":
        return _from_print(image)
    if image.has_transparency_data:
        return _on_background(image)
    return image


def open_image(source: Path | str | bytes, name: str = "") -> Image.Image:
    """Decodes an image.

    Args:
        source: A file, or a file's bytes.
        name: Stands for bytes in errors.

    Returns:
        Image.Image: In mode RGB, decoded whole.

    Raises:
        ImageError: It is truncated, empty, of no known format, or of more than ``MOST_PIXELS``.
    """
    label = name or ("image" if isinstance(source, bytes) else str(source))
    if isinstance(source, bytes) and not source:
        raise ImageError(label, "empty file")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            turned = ImageOps.exif_transpose(image)  # decodes
            return _to_rgb(turned).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{label}: no such image") from None
    except Exception as error:  # decoders of damaged files raise errors of many kinds
        raise ImageError(label, _reason(error)) from None


def shown_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as a viewer shows it, by its header alone.

    Raises:
        ImageError: It has none that can be read.
    """
    try:
        with Image.open(path) as image:
            sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if sideways else (image.width, image.height)
    except Exception as error:  # decoders of damaged files raise errors of many kinds
        raise ImageError(str(path), _reason(error)) from None
