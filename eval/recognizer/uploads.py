"""What the demo page and the service accept from visitors: images by format and size, and additions to classes."""

from __future__ import annotations

import io
import ipaddress
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.images import display_size
from data_prep.embedding.image_inputs import ImageInput, OpenedImage, open_input
from data_prep.settings import check
from eval.recognizer.class_memory import ClassMemory

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Accepted formats of uploads, by content: decoders of other formats run other programs or are seldom tested."""

MAX_IMAGES = 100
"""Images that can be added to a class at a time."""

MAX_NAME_LENGTH = 200
"""Characters of a class's name, which becomes part of the ranker's prompt."""


def check_size(size: int, name: str, max_bytes: float) -> None:
    """Checks the size of an uploaded file.

    Raises:
        UserError: It is too large.
    """
    check(size <= max_bytes, f"{name}: {size / 1e6:.1f} MB, but at most {max_bytes / 1e6:g} MB; make it smaller")


def upload_pixels(data: bytes, name: str) -> int:
    """Returns the number of pixels of an uploaded image, from its header alone.

    Raises:
        UserError: It is not an image of an accepted format, or ``open_image`` would reject it by its header.
    """
    try:
        Image.open(io.BytesIO(data), formats=FORMATS).close()
    except Image.UnidentifiedImageError:
        raise UserError(f"{name}: not an image of an accepted format: {', '.join(FORMATS)}") from None
    except Exception:  # reported by display_size
        pass
    width, height = display_size(data, name)
    return width * height


def open_upload(data: bytes, name: str, max_bytes: float) -> OpenedImage:
    """Decodes an uploaded file.

    Args:
        data: Its content.
        name: Its name, for error messages.
        max_bytes: Limit of its size.

    Raises:
        UserError: It is too large, not an image, of another format, or does not decode.
    """
    check_size(len(data), name, max_bytes)
    upload_pixels(data, name)
    return open_input(data, name)


def check_upload_name(name: str | None) -> str:
    """Checks and returns a visitor's name for a class.

    Raises:
        UserError: There is none, it is too long, or holds characters that are not text.
    """
    if not name or not name.strip():
        raise UserError("give the class a name")
    is_text = not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
    check(is_text, "the name holds control characters, or letters that are not Unicode")
    check(len(name) <= MAX_NAME_LENGTH, f"the name has {len(name)} characters: at most {MAX_NAME_LENGTH}")
    return name


@dataclass(frozen=True)
class Addition:
    """What was added to a memory.

    Attributes:
        name: The class's name as it is stored.
        new: Whether the class is new.
        added: Number of new images; those that were there already are not counted.
        images: Number of the class's images in all.
    """

    name: str
    new: bool
    added: int
    images: int


def add_to_class(
    memory: ClassMemory, name: str, images: Sequence[ImageInput | OpenedImage], verb: str = "give"
) -> Addition:
    """Adds a class, or images to a known one.

    Args:
        memory: Memory of the classes.
        name: The class's name.
        images: Its images; none for a new class that is found by its name alone.
        verb: What a visitor does with images, for the error message.

    Raises:
        UserError: The name has no visible character, a known class is given without images, or an image does not
            decode; nothing is added then.
    """
    with memory.lock:
        known = memory.find_name(name)
        check(known is None or bool(images), f"{known}: known already; {verb} images to add to it")
        added = memory.add(name, images)
        stored_name = memory.find_name(name) or name
        return Addition(stored_name, known is None, added, memory.classes[stored_name])


def is_loopback(host: str) -> bool:
    """Returns whether an address can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
