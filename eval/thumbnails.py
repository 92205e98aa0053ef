"""Small pictures as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError


def thumbnail(path: Path, size: int) -> str | None:
    """A picture within ``size`` pixels as a WebP data URI, or None where the file is gone or does not decode."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    small.thumbnail((size, size))
    data = io.BytesIO()
    small.save(data, "WEBP", quality=60)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
