"""Opens the images of a job in data-loading workers, and hands them over as batches in shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from data_prep.core.errors import UserError
from data_prep.core.images import ImageError
from data_prep.embedding.image_inputs import OpenedImage, open_input
from data_prep.embedding.regions import clamp_boxes, cut_regions
from data_prep.reading.checked import unreadable_reason
from data_prep.settings import RegionArgs
from eval.predict.archives import ParquetRows, read_member
from eval.predict.items import Item
from eval.predict.job import Job

MAX_BATCH_BYTES = 2**28
"""Pixels after which a batch ends early: a worker holds a few batches, and photographs have 36 MB each."""


class ImageOpener:
    """Opens items; the last image with boxes is kept, as the boxes of an image follow one another."""

    def __init__(self, regions: RegionArgs):
        self.regions, self._rows = regions, ParquetRows()
        self._boxed: tuple[str, Image.Image | UserError] | None = None

    def open(self, item: Item) -> OpenedImage:
        """Returns the image as ``Recognizer.predict`` opens its file; of a box, the crop that the retriever sees.

        Raises:
            UserError: It is missing or does not decode, or a box has no pixel in its image. An ``ImageError`` has the
                reason in a few words.
        """
        try:
            if item.kind == "box":
                return self._open_box(item)
            if item.kind == "file":
                return _open_file(Path(item.path))
            data = read_member(item) if item.kind == "tar" else self._rows.read(item)
            return open_input(data, item.path) if isinstance(data, bytes) else _open_file(data)
        except OSError as error:
            raise ImageError(item.path, str(error.strerror or error).lower()) from None

    def _open_box(self, item: Item) -> OpenedImage:
        assert item.box is not None
        if self._boxed is None or self._boxed[0] != item.path:
            try:
                self._boxed = (item.path, _open_file(Path(item.path)).image)
            except UserError as error:
                self._boxed = (item.path, error)
        image = self._boxed[1]
        if isinstance(image, UserError):
            raise image
        if image.size != item.position:
            raise ImageError(item.path, "image of another size than its record says")
        left, top, width, height = item.box
        boxes, visible = clamp_boxes(np.array([[left, top, left + width, top + height]]), *image.size)
        if not visible[0]:
            raise ImageError(item.path, "box without a pixel in its image")
        return open_input(cut_regions(image, boxes, self.regions)[0], item.path)

    def open_or_reason(self, item: Item) -> OpenedImage | str:
        """Returns the image, or in a few words why it cannot be used."""
        try:
            return self.open(item)
        except ImageError as error:
            return error.reason
        except UserError as error:
            return str(error)


def _open_file(path: Path) -> OpenedImage:
    if reason := unreadable_reason(path):
        raise ImageError(str(path), reason)
    return open_input(path.read_bytes(), str(path))


@dataclass
class ImageBatch:
    """Decoded images of a part of a job, or the reasons why there are none.

    Attributes:
        part: Index of the part.
        items: The items, in their order in the part.
        reasons: Why an item has no image; empty where it has one.
        sizes: Width and height per image.
        keys: Key per image; see ``OpenedImage``.
        pixels: RGB values of all images one after the other, uint8, one-dimensional.
        ends_part: Whether this is the part's last batch.
    """

    part: int
    items: list[Item]
    reasons: list[str]
    sizes: list[tuple[int, int]]
    keys: list[str]
    pixels: Tensor
    ends_part: bool

    @classmethod
    def collect(cls, part: int, items: list[Item], opened: list[OpenedImage | str], ends_part: bool) -> ImageBatch:
        """Packs opened images into one tensor, which costs one file descriptor to hand over."""
        reasons = [image if isinstance(image, str) else "" for image in opened]
        images = [image for image in opened if isinstance(image, OpenedImage)]
        sizes, keys = [image.image.size for image in images], [image.key for image in images]
        arrays = [np.asarray(image.image).reshape(-1) for image in images]
        pixels = torch.from_numpy(np.concatenate([*arrays, np.empty(0, np.uint8)]))
        return cls(part, items, reasons, sizes, keys, pixels, ends_part)

    def images(self) -> list[OpenedImage]:
        """Returns the images of those items that have one."""
        images, start, values = [], 0, self.pixels.numpy()
        for size, key in zip(self.sizes, self.keys, strict=True):
            end = start + size[0] * size[1] * 3
            images.append(OpenedImage(Image.frombuffer("RGB", size, values[start:end], "raw", "RGB", 0, 1), key))
            start = end
        return images


class ImageBatches(IterableDataset):
    """The batches of some parts of a job; each data-loading worker opens every n-th of the parts.

    Args:
        job: The job.
        parts: Indices of the parts.
        regions: How boxes are cropped.
    """

    def __init__(self, job: Job, parts: list[int], regions: RegionArgs):
        self.job, self.parts, self.regions = job, parts, regions

    def __iter__(self) -> Iterator[ImageBatch]:
        worker = get_worker_info()
        opener = ImageOpener(self.regions)
        for part in self.parts[worker.id :: worker.num_workers] if worker else self.parts:
            yield from self._batches(part, opener)

    def _batches(self, part: int, opener: ImageOpener) -> Iterator[ImageBatch]:
        """Yields a part in one batch, or in several where its images are large; always the same ones."""
        items: list[Item] = []
        opened: list[OpenedImage | str] = []
        pixel_bytes = 0
        for item in self.job.items(part):
            if pixel_bytes >= MAX_BATCH_BYTES:
                yield ImageBatch.collect(part, items, opened, False)
                items, opened, pixel_bytes = [], [], 0
            image = opener.open_or_reason(item)
            pixel_bytes += 0 if isinstance(image, str) else image.image.width * image.image.height * 3
            items.append(item)
            opened.append(image)
        yield ImageBatch.collect(part, items, opened, True)
