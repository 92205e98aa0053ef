"""Small pictures as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.images import open_image


def thumbnail(path: Path, size: int) -> str | None:
    """A picture within ``size`` pixels as a WebP data URI, or None where the file is gone or does not decode."""
    try:
        small = open_image(path)
    except UserError:
        return None
    small.thumbnail((size, size))
    data = io.BytesIO()
    small.save(data, "WEBP", quality=60)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
