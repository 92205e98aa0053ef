"""Image files of armory's shields, for benchmarks that read images."""

from __future__ import annotations

import io

import numpy as np

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render


def render_files(count: int, classes: int, size: int) -> list[bytes]:
    """Renders images of ``size`` pixels a side, the classes in turn, as JPEG files."""
    blazons, files = draw_classes("test", classes, 4, 0), []
    for number in range(count):
        data = io.BytesIO()
        render(blazons[number % classes], size, np.random.default_rng(number)).save(data, "JPEG", quality=90)
        files.append(data.getvalue())
    return files
