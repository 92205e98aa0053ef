"""Images as programs give them: files, bytes, file objects, arrays or decoded images, opened with a key by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.images import open_image
from data_prep.settings import check

MAX_DECODED_BYTES = 2**30
"""Pixels of the decoded images of a batch, in bytes, after which it ends early."""


@runtime_checkable
class BinaryFile(Protocol):
    """A file object that is open for reading bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Reads to the end, or at most ``size`` bytes."""


ImageInput = str | Path | bytes | BinaryFile | np.ndarray | Image.Image
"""A file's path, its bytes, an open file, an array of uint8 (grey ``[h, w]`` or ``[h, w, 1]``, RGB ``[h, w, 3]``, RGBA
``[h, w, 4]``), or a decoded image."""


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """A decoded image.

    Attributes:
        image: The image, in mode RGB.
        key: SHA-256 of the file's bytes, or of the pixels of an image that has none. It decides the order in which
            names are shown, so that this order does not depend on other images.
    """

    image: Image.Image
    key: str


def check_is_list(images: object, where: str = "") -> None:
    """Checks that images are given as a list: a path or an array could be taken for one.

    Args:
        images: What a caller gave.
        where: What they are for, for the error message.

    Raises:
        UserError: They are a single image.
    """
    is_single = isinstance(images, str | Path | bytes | np.ndarray | Image.Image | BinaryFile | OpenedImage)
    check(not is_single, f"{where}give images as a list, [image] for one")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    """Makes an image of an array.

    Raises:
        UserError: It is not of uint8, or of another shape.
    """
    kind = f"{name}: an array of {array.dtype}, {list(array.shape)}"
    is_float = array.dtype.kind == "f"
    remedy = "scale values of 0 to 1 to uint8, (255 * a).round().astype('uint8')" if is_float else "convert it to uint8"
    check(array.dtype == np.uint8, f"{kind}; {remedy}")
    grey = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    fits = grey.ndim == 2 or (grey.ndim == 3 and grey.shape[2] in (3, 4))
    check(fits, f"{kind}; give [height, width], or [height, width, channels] with 3 (RGB) or 4 (RGBA) channels")
    check(grey.size > 0, f"{kind}; it has no pixels")
    return Image.fromarray(np.ascontiguousarray(grey))


def open_input(image: ImageInput | OpenedImage, name: str = "image") -> OpenedImage:
    """Decodes an image.

    Args:
        image: The image; a file object is read from its present position to its end.
        name: Name of an image that has no path, for error messages.

    Raises:
        UserError: It is missing, does not decode, or is of another type.
    """
    if isinstance(image, OpenedImage):
        return image
    if isinstance(image, str | Path):
        path, name = Path(image), str(image)
        try:
            if not path.is_file():
                open_image(path, name)  # raises an error that says what it is
            image = path.read_bytes()
        except OSError as error:
            raise UserError(f"{name}: not readable ({error.strerror})") from None
    if isinstance(image, np.ndarray):
        image = _from_array(image, name)
    if isinstance(image, Image.Image):
        opened = open_image(image, name)
        return OpenedImage(opened, _hash(f"{opened.mode} {opened.size}".encode() + opened.tobytes()))
    if isinstance(image, BinaryFile):
        image = image.read()
        check(isinstance(image, bytes), f"{name}: a file that is open for text; open it with mode 'rb'")
    check(isinstance(image, bytes), f"{name}: {type(image).__name__}; give a path, bytes, an array or a PIL image")
    return OpenedImage(open_image(image, name), _hash(image))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def open_batches(
    images: Iterable[ImageInput | OpenedImage], size: int, skip: bool
) -> Iterator[list[OpenedImage | str]]:
    """Decodes images as they come, in batches.

    Args:
        images: The images.
        size: Images in a batch; it ends early after ``MAX_DECODED_BYTES``.
        skip: Whether to go on after an image that cannot be used.

    Yields:
        list[OpenedImage | str]: The images, or in a few words why one cannot be used.

    Raises:
        UserError: An image cannot be used, and ``skip`` is false.
    """
    batch: list[OpenedImage | str] = []
    pixel_bytes = 0
    for index, image in enumerate(images):
        try:
            opened = open_input(image, f"image {index}")
            batch.append(opened)
            pixel_bytes += opened.image.width * opened.image.height * 3
        except UserError as error:
            if not skip:
                raise
            batch.append(describe_reason(error))
        if len(batch) == size or pixel_bytes >= MAX_DECODED_BYTES:
            yield batch
            batch, pixel_bytes = [], 0
    if batch:
        yield batch


def describe_reason(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
