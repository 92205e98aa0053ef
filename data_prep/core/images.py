"""Image decoding: opens an image as a viewer displays it, or says why it cannot be used.

All code that feeds an image to a model opens it here, whether it is a file, a file's bytes or an image in memory, so
that the retriever and the ranker see the same pixels: rotated by the EXIF orientation, on a white background instead
of transparency, the first frame of an animation, 16 bits scaled to 8, CMYK converted by its embedded profile.
"""

from __future__ import annotations

import importlib.util
import io
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, features
from PIL.JpegImagePlugin import JpegImageFile

from data_prep.core.errors import UserError
from data_prep.core.memory_budget import MemoryBudget

VERSION = 2
"""Version of these decoding rules. Increase it when decoded pixels change, or which images are accepted; it is part of
the encoder's id, so embeddings are recomputed."""

BACKGROUND = (255, 255, 255)
"""Colour behind transparent pixels: white, as on a page."""

MOST_PIXELS = 178_956_970
"""Maximum number of pixels; a larger image is rejected before decoding as a decompression bomb (Pillow's limit)."""

MAX_DECODE_BYTES = 3 * 2**29
"""Memory for decoding in a process, 1.5 GiB: an image that needs more is rejected, and concurrent threads wait."""

MAX_ASPECT_RATIO = 200
"""Maximum ratio of the longer to the shorter side. Models resize by the shorter side, so a strip of 40,000 x 2 would
take gigabytes, and Qwen-VL's processors reject longer ones."""

_STRIP = 2**22  # pixels that a conversion in several steps processes at a time
_TRANSPOSES = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # bytes per pixel; other modes: 4
_DECODER = {"WEBP": 12, "AVIF": 8, "HEIF": 8, "JPEG2000": 16}  # bytes per pixel that a decoder adds

_HEAD = 32  # bytes that show the format
_HEIC = re.compile(rb"....ftyp(?:heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL)
_AVIF = re.compile(rb"....ftyp(?:avif|avis)", re.DOTALL)
_HEIC_SUFFIXES, _AVIF_SUFFIXES = (".heic", ".heif", ".hif"), (".avif", ".avifs")


class ImageError(UserError):
    """An image that cannot be used.

    Attributes:
        reason: Short reason, for counting.
    """

    def __init__(self, source: str, reason: str):
        super().__init__(f"{source}: not readable as an image: {reason}")
        self.reason = reason


def _reason(error: Exception) -> str:
    """Returns what is wrong, without the parts of Pillow's messages that differ from file to file."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, Image.DecompressionBombError):
        return f"a decompression bomb of more than {MOST_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the file name
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "truncated" if "truncated" in text or "Truncated" in text else text


_DECODING = MemoryBudget(MAX_DECODE_BYTES)


def _bytes_needed(image: Image.Image) -> int:
    """Estimates from the header an upper bound of the peak memory of decoding and conversion, in bytes."""
    stored = _STORED.get(image.mode, 4)
    progressive = 6 if "progressive" in image.info else 0  # the coefficients of a JPEG, all in memory at once
    decoder = _DECODER.get(image.format or "", progressive)
    return image.width * image.height * max(stored + max(decoder, 4), 8)


def _check_header(image: Image.Image) -> int:
    """Returns the bytes needed to decode an image.

    Raises:
        DecompressionBombError: The image has too many pixels.
        ValueError: The image has no pixels, is too elongated, or needs too much memory.
    """
    width, height = image.size
    if not width or not height:
        raise ValueError("no pixels")
    if width * height > MOST_PIXELS:
        raise Image.DecompressionBombError
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(f"more than {MAX_ASPECT_RATIO} times as long as wide; crop or pad it")
    needed = _bytes_needed(image)
    if needed > MAX_DECODE_BYTES:
        limit = f"{MAX_DECODE_BYTES / 2**30:g} GiB"
        raise ValueError(f"decoding it takes more than {limit}; make it smaller, or save it as PNG")
    return needed


@cache
def _register_heif() -> None:
    """Makes Pillow read HEIC with pillow-heif, which takes a moment to load; in each process, at its first such image.

    Raises:
        ImportError: It is not installed.
    """
    import pillow_heif

    pillow_heif.register_heif_opener()


def optional_decoders() -> list[str]:
    """Returns the formats that an optional package, or a newer Pillow, decodes here: a part of what can be read."""
    found = {"HEIC": importlib.util.find_spec("pillow_heif") is not None, "AVIF": features.check("avif")}
    return [name for name, is_there in found.items() if is_there]


def _needs_package(name: str) -> str:
    return f"{name}, which needs pip install 'rar-train[heic]'"


def missing_decoder(path: Path) -> str:
    """Returns what an image file needs to be decoded here, by its suffix; empty if nothing that can be installed."""
    for name, suffixes in (("HEIC", _HEIC_SUFFIXES), ("AVIF", _AVIF_SUFFIXES)):
        if path.suffix.lower() in suffixes and name not in optional_decoders():
            return _needs_package(name)
    return ""


def _read_head(source: Path | str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:_HEAD]
    with open(source, "rb") as file:
        return file.read(_HEAD)


def _open_with_optional_decoder(source: Path | str | bytes) -> Image.Image:
    """Opens an image of a format that Pillow does not know by itself.

    Raises:
        ValueError: Its decoder is not installed.
        UnidentifiedImageError: It is of no known format.
    """
    head = _read_head(source)
    if _HEIC.match(head):
        try:
            _register_heif()
        except ImportError:
            raise ValueError(_needs_package("HEIC")) from None
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    if _AVIF.match(head) and not features.check("avif"):
        raise ValueError(_needs_package("AVIF"))
    raise Image.UnidentifiedImageError


def _open_header(source: Path | str | bytes) -> Image.Image:
    """Opens an image and reads its header."""
    if not isinstance(source, bytes) and not stat.S_ISREG(Path(source).stat().st_mode):
        raise ValueError("not a file")  # opening a pipe would block forever
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Image.UnidentifiedImageError:
        with suppress(Image.UnidentifiedImageError):
            return _open_with_optional_decoder(source)
        # It may be a JPEG whose index of further images is damaged, for which Pillow rejects the first image too.
        try:
            image = JpegImageFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        except SyntaxError:
            raise Image.UnidentifiedImageError from None
    if image.format == "TIFF":
        _orient_tiff_on_load(image)
    return image


def _transpose_of(image: Image.Image) -> Image.Transpose | None:
    orientation: Any = _orientation(image)  # an int, or a number equal to one
    return _TRANSPOSES.get(orientation)


def _orient_tiff_on_load(image: Image.Image) -> None:
    """Makes a TIFF rotate itself when it is decoded, as Pillow does, but without reading tags that may be damaged.

    Its ``size`` is that of the rotated image from the beginning.
    """
    transpose = _transpose_of(image)
    if transpose is not None:
        del image.getexif()[ExifTags.Base.Orientation]

    def load_end() -> None:
        if transpose is not None:
            image.im = image.im.transpose(transpose)

    setattr(image, "load_end", load_end)  # noqa: B010 (not declared by Pillow)


def _orientation(image: Image.Image) -> object:
    """Returns the EXIF orientation; 1 if the EXIF block is unreadable, since the pixels themselves are intact."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged blocks raise many types of errors
        return 1


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Converts an image to RGB strip by strip, so that intermediate steps take little memory."""
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(convert(image.crop(box)), box)
    return rgb


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scales grey values of more than 8 bits to 8 bits, where white is 65535."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"values of mode {image.mode} have no defined white; save it with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """Converts CMYK to RGB, by the embedded profile if there is one."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile: viewers fall back to the plain conversion too
    return image.convert("RGB")


def _composite_on_background(image: Image.Image) -> Image.Image:
    background = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to a new image in mode RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _by_strips(image, _scale_to_8_bits)
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if image.has_transparency_data:
        return _by_strips(image, _composite_on_background)
    return image.convert("RGB")


def _convert(image: Image.Image) -> tuple[Image.Image, Image.Transpose | None]:
    """Decodes an image to RGB; also returns the transposition that its orientation requires."""
    image.load()
    transpose = _transpose_of(image)
    rgb = _to_rgb(image)
    rgb.info = {}  # drops the orientation, so that it is not applied twice
    return rgb, transpose


def _apply_transpose(image: Image.Image, transpose: Image.Transpose | None) -> Image.Image:
    return image if transpose is None else image.transpose(transpose)


def open_image(source: Path | str | bytes | Image.Image, name: str = "") -> Image.Image:
    """Decodes an image.

    Args:
        source: A file, a file's bytes, or an image in memory, which is treated like its file would be.
        name: Name of the bytes or the image in memory, for error messages.

    Returns:
        Image.Image: A new, fully decoded image in mode RGB, without metadata.

    Raises:
        ImageError: The image is truncated, empty, of no known format, has more than ``MOST_PIXELS`` pixels, exceeds
            ``MAX_ASPECT_RATIO``, or takes more than ``MAX_DECODE_BYTES`` to decode.
    """
    label = name or (str(source) if isinstance(source, Path | str) else "image")
    if isinstance(source, bytes) and not source:
        raise ImageError(label, "empty file")
    try:
        if isinstance(source, Image.Image):
            with _DECODING.holding(_check_header(source)):
                return _apply_transpose(*_convert(source))
        with _open_header(source) as image, _DECODING.holding(_check_header(image)):
            rgb, transpose = _convert(image)
            image.close()  # frees memory: the transposition needs a second copy
            return _apply_transpose(rgb, transpose)
    except FileNotFoundError:
        raise UserError(f"{label}: no such image") from None
    except Exception as error:  # decoding a damaged file raises many types of errors
        raise ImageError(label, _reason(error)) from None


def read_format(path: Path) -> str:
    """Returns the format of an image file, such as ``JPEG``, from its header.

    Raises:
        ImageError: The file is not an image of a known format.
    """
    try:
        with _open_header(path) as image:
            return str(image.format)
    except Exception as error:  # opening a damaged file raises many types of errors
        raise ImageError(str(path), _reason(error)) from None


def open_reduced(path: Path, size: tuple[int, int]) -> Image.Image:
    """Decodes an image at a fixed small size, regardless of its shape; a JPEG is decoded at a fraction of its size.

    Args:
        path: The file.
        size: Width and height.

    Raises:
        ImageError: As ``open_image`` does.
    """
    try:
        with _open_header(path) as image:
            image.draft(image.mode, (4 * size[0], 4 * size[1]))
            return open_image(image, str(path)).resize(size, Image.Resampling.BOX)
    except OSError as error:
        raise ImageError(str(path), _reason(error)) from None


def display_size(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """Returns width and height of an image as a viewer displays it, from the header alone where it has the orientation.

    Args:
        source: A file, or a file's bytes.
        name: Name of the bytes, for error messages.

    Raises:
        ImageError: The size is unreadable, or ``open_image`` would reject the image.
    """
    try:
        with _open_header(source) as image, _DECODING.holding(_check_header(image)):
            is_sideways = _orientation(image) in _SIDEWAYS
            return (image.height, image.width) if is_sideways else (image.width, image.height)
    except Exception as error:  # decoding a damaged file raises many types of errors
        raise ImageError(name or ("image" if isinstance(source, bytes) else str(source)), _reason(error)) from None
