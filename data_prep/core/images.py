"""Opens an image as a viewer shows it, or says why it cannot be shown.

Every place that shows a picture to a model opens it here, whether it is a file, a file's bytes or a
picture in memory, so that the retriever and the ranker see the same pixels: turned by the
orientation that the camera noted, without transparency, the first frame of an animation, 16 bits
scaled to 8, printing colours converted by their own profile.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

from data_prep.core.errors import UserError
from data_prep.core.memory_budget import MemoryBudget

VERSION = 2
"""Of these rules: raise it when pixels change, or which pictures are shown. The encoder's id carries it, so embeddings
follow."""

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as on a page."""

MOST_PIXELS = 178_956_970
"""A larger image is refused before it is decoded, as a decompression bomb: the bound above which Pillow raises."""

MOST_BYTES = 3 * 2**29
"""What decoding may take at once in a process, 1.5 GiB: an image that needs more is refused, and threads wait."""

MOST_ELONGATED = 200
"""How many times as long as wide an image may be. Models resize by the shorter edge, so that a strip of 40,000 x 2
would take gigabytes, and Qwen-VL's processors refuse what is longer."""

_STRIP = 2**22  # pixels that a conversion with several steps takes at a time
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # bytes a pixel; of other modes 4
_DECODER = {"WEBP": 12, "AVIF": 8, "JPEG2000": 16}  # bytes a pixel that a decoder needs beside the image


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
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the file's name
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "truncated" if "truncated" in text or "Truncated" in text else text


_DECODING = MemoryBudget(MOST_BYTES)


def _bytes_needed(image: Image.Image) -> int:
    """An upper estimate, from the header, of what decoding and converting take at the worst moment."""
    stored = _STORED.get(image.mode, 4)
    progressive = 6 if "progressive" in image.info else 0  # a JPEG's coefficients, all at once
    decoder = _DECODER.get(image.format or "", progressive)
    return image.width * image.height * max(stored + max(decoder, 4), 8)


def _check_header(image: Image.Image) -> int:
    """The bytes that an image needs.

    Raises:
        DecompressionBombError: It has too many pixels.
        ValueError: It has none, is too elongated, or needs too much memory.
    """
    width, height = image.size
    if not width or not height:
        raise ValueError("no pixels")
    if width * height > MOST_PIXELS:
        raise Image.DecompressionBombError
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise ValueError(f"more than {MOST_ELONGATED} times as long as wide; crop or pad it")
    needed = _bytes_needed(image)
    if needed > MOST_BYTES:
        raise ValueError(f"decoding it takes more than {MOST_BYTES / 2**30:g} GiB; make it smaller, or save it as PNG")
    return needed


def _opened(source: Path | str | bytes) -> Image.Image:
    """Reads an image's header."""
    if not isinstance(source, bytes) and not stat.S_ISREG(Path(source).stat().st_mode):
        raise ValueError("not a file")  # opening a pipe would wait for ever
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Image.UnidentifiedImageError:
        # A JPEG whose list of further pictures is damaged; Pillow would refuse the first one too.
        try:
            image = JpegImageFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        except SyntaxError:
            raise Image.UnidentifiedImageError from None
    if image.format == "TIFF":
        _settle_tiff(image)
    return image


def _settle_tiff(image: Image.Image) -> None:
    """Has a TIFF turned when it is decoded, as Pillow does it, but without all its tags, of which one may be damaged.

    Its size is the one shown from the beginning.
    """
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        del image.getexif()[ExifTags.Base.Orientation]

    def load_end() -> None:
        if turn is not None:
            image.im = image.im.transpose(turn)

    image.load_end = load_end


def _orientation(image: Image.Image) -> object:
    """How the camera was held, as EXIF numbers it; 1 where its block cannot be read, since the pixels are whole."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged blocks raise errors of many kinds
        return 1


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Converts an image to RGB a strip at a time, so that the steps between take little memory."""
    shown = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        shown.paste(convert(image.crop(box)), box)
    return shown


def _from_deep(image: Image.Image) -> Image.Image:
    """Scales grey values of more than 8 bits to 8, where white is 65535."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
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
    """A new image in mode RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _by_strips(image, _from_deep)
    if image.mode == "CMYK":
        return _from_print(image)
    if image.has_transparency_data:
        return _by_strips(image, _on_background)
    return image.convert("RGB")


def _converted(image: Image.Image) -> tuple[Image.Image, Image.Transpose | None]:
    """The image in RGB, and how it is to be turned."""
    image.load()
    turn = _TURNS.get(_orientation(image))
    shown = _to_rgb(image)
    shown.info = {}  # so that it is not turned once more
    return shown, turn


def _turned(shown: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return shown if turn is None else shown.transpose(turn)


def open_image(source: Path | str | bytes | Image.Image, name: str = "") -> Image.Image:
    """Decodes an image.

    Args:
        source: A file, a file's bytes, or a picture in memory, which is shown as its file would be.
        name: Stands for bytes and for a picture in memory in errors.

    Returns:
        Image.Image: A new one in mode RGB, decoded whole, with nothing but its pixels.

    Raises:
        ImageError: It is truncated, empty, of no known format, of more than ``MOST_PIXELS``, more elongated than
            ``MOST_ELONGATED``, or takes more than ``MOST_BYTES`` to decode.
    """
    label = name or (str(source) if isinstance(source, Path | str) else "image")
    if isinstance(source, bytes) and not source:
        raise ImageError(label, "empty file")
    try:
        if isinstance(source, Image.Image):
            with _DECODING.holding(_check_header(source)):
                return _turned(*_converted(source))
        with _opened(source) as image, _DECODING.holding(_check_header(image)):
            shown, turn = _converted(image)
            image.close()  # a turn takes as much again
            return _turned(shown, turn)
    except FileNotFoundError:
        raise UserError(f"{label}: no such image") from None
    except Exception as error:  # decoders of damaged files raise errors of many kinds
        raise ImageError(label, _reason(error)) from None


def shown_size(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """Width and height of an image as a viewer shows it, by its header alone where that has its orientation.

    Args:
        source: A file, or a file's bytes.
        name: Stands for bytes in errors.

    Raises:
        ImageError: It has none that can be read, or ``open_image`` would refuse it.
    """
    try:
        with _opened(source) as image, _DECODING.holding(_check_header(image)):
            sideways = _orientation(image) in _SIDEWAYS
            return (image.height, image.width) if sideways else (image.width, image.height)
    except Exception as error:  # decoders of damaged files raise errors of many kinds
        raise ImageError(name or ("image" if isinstance(source, bytes) else str(source)), _reason(error)) from None
