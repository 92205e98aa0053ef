"""Thumbnails as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.images import open_image


def thumbnail(source: Path | Image.Image, size: int) -> str | None:
    """Shrinks an image to ``size`` pixels as a WebP data URI; None where the file is missing or does not decode."""
    try:
        image = open_image(source)
    except UserError:
        return None
    image.thumbnail((size, size))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=60)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
