"""Rendered shields for the tests: images of a few classes, and the classes' names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render

CLASSES = draw_classes("test", 8, 4, 0)
NAMES = [blazon.name for blazon in CLASSES]


def shield(number: int) -> Image.Image:
    """Renders one image of class ``number`` modulo eight."""
    return render(CLASSES[number % len(CLASSES)], 96, np.random.default_rng(number))


def encoded(number: int) -> bytes:
    """Returns the bytes of its file."""
    data = io.BytesIO()
    shield(number).save(data, "PNG")
    return data.getvalue()


def write_shields(folder: Path, count: int) -> Path:
    """Writes images into a folder of folders, ten in each."""
    for number in range(count):
        path = folder / f"{number // 10:03d}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    return folder
