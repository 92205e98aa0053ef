"""Counts and times of the service, in Prometheus's text format."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from threading import Lock

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class _Histogram:
    """Numbers of observations up to each of some bounds."""

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        lines, total = [], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self.sum}", f"{name}_count {total}"]


class Metrics:
    """What has been counted since the service started; may be used by several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._images: Counter[str] = Counter()
        self._seconds, self._batches = _Histogram(_SECONDS), _Histogram(_IMAGES)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request; those for recognition by their time too.

        Args:
            method: HTTP method.
            route: The route's pattern, such as ``/classes/{name}``; never what a client sent.
            status: HTTP status of the response.
            seconds: From the first byte of the request to the last of the response.
        """
        with self._lock:
            self._requests[method, route, status] += 1
            if route == "/recognise":
                self._seconds.add(seconds)

    def count_images(self, counts: Mapping[str, int]) -> None:
        """Counts images by ``ranked``, ``gated`` or ``failed``."""
        with self._lock:
            self._images.update(counts)

    def count_batch(self, images: int) -> None:
        """Counts a batch of the models."""
        with self._lock:
            self._batches.add(images)

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Returns all metrics.

        Args:
            gauges: Present values: help and value by name.
        """
        with self._lock:
            requests = [
                f'rar_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}'
                for (method, route, status), count in sorted(self._requests.items())
            ]
            images = [f'rar_images_total{{outcome="{key}"}} {count}' for key, count in sorted(self._images.items())]
            blocks = [
                ("rar_requests_total", "counter", "Requests that were answered.", requests),
                ("rar_images_total", "counter", "Images: ranked, gated (retriever alone) or failed.", images),
                (
                    "rar_recognise_seconds",
                    "histogram",
                    "Time of requests for recognition.",
                    self._seconds.lines("rar_recognise_seconds"),
                ),
                ("rar_batch_images", "histogram", "Images per batch.", self._batches.lines("rar_batch_images")),
            ]
        blocks += [(name, "gauge", text, [f"{name} {value}"]) for name, (text, value) in gauges.items()]
        lines = []
        for name, kind, text, values in blocks:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *values]
        return "\n".join(lines) + "\n"
