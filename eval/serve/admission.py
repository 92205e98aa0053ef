"""Limits of what is in memory at a time: bodies of requests, and images that are decoded and wait for the models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from data_prep.core.errors import UserError


class Busy(Exception):
    """Too much work waits already; the same request will be accepted later."""


class TooLarge(UserError):
    """A request exceeds a limit by itself."""


class Admission:
    """Admits requests while there is room for their bodies or images.

    Args:
        max_images: Images that are decoded, wait or are being recognised at a time.
        max_bytes: Memory of bodies, or of images' files and pixels; decoders take more for a moment, limited in
            ``data_prep.core.images``.
    """

    def __init__(self, max_images: int, max_bytes: int):
        self.max_images, self.max_bytes = max_images, max_bytes
        self.images = self._bytes = 0
        self._lock = Lock()

    @contextmanager
    def admit(self, images: int, size: int) -> Iterator[None]:
        """Holds room for images while the block runs.

        Args:
            images: Number of images.
            size: Memory, in bytes.

        Raises:
            TooLarge: There would be no room even without other requests.
            Busy: There is no room at present.
        """
        if images > self.max_images or size > self.max_bytes:
            limit = f"{self.max_images} images of {self.max_bytes / 1e6:.0f} MB in memory"
            raise TooLarge(f"{images} images of {size / 1e6:.1f} MB in memory: at most {limit}")
        with self._lock:
            if self.images + images > self.max_images or self._bytes + size > self.max_bytes:
                raise Busy
            self.images += images
            self._bytes += size
        try:
            yield
        finally:
            with self._lock:
                self.images -= images
                self._bytes -= size
