"""One thread that runs the models, on the images of all requests that wait."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread

from data_prep.embedding.image_inputs import OpenedImage
from eval.recognizer.recognizer import Recognizer
from eval.recognizer.result import Recognition

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Work:
    images: Sequence[OpenedImage]
    k: int | None
    results: Future[list[Recognition]] = field(default_factory=Future)


class Batcher:
    """Recognises the images of concurrent requests together.

    The thread takes the requests that wait, up to ``eval.batch_size`` images, without waiting for more. Results do not
    depend on what was in a batch. The queue is bounded by those who fill it; see ``Admission``.

    Args:
        recognizer: Recognises.
        on_batch: Called with the number of images of each batch.
    """

    def __init__(self, recognizer: Recognizer, on_batch: Callable[[int], None] = lambda images: None):
        self.recognizer, self.on_batch = recognizer, on_batch
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    def submit(self, images: Sequence[OpenedImage], k: int | None) -> Future[list[Recognition]]:
        """Has images recognised.

        Args:
            images: Decoded images.
            k: Candidates that the ranker sees; None: what was chosen.

        Returns:
            Future[list[Recognition]]: A result per image, with ``error`` where the models refuse it.
        """
        work = _Work(images, k)
        self._queue.put(work)
        return work.results

    def close(self) -> None:
        """Ends the thread after the work that waits."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        size = self.recognizer.recipe.eval.batch_size
        while (first := self._queue.get()) is not None:
            batch, is_last = [first], False
            while sum(len(work.images) for work in batch) < size:
                try:
                    work = self._queue.get_nowait()
                except Empty:
                    break
                if is_last := work is None:
                    break
                batch.append(work)
            for k in dict.fromkeys(work.k for work in batch):
                self._recognise([work for work in batch if work.k == k], k)
            if is_last:
                return

    def _recognise(self, batch: Sequence[_Work], k: int | None) -> None:
        # A request whose client is gone may have been cancelled while it waited.
        batch = [work for work in batch if work.results.set_running_or_notify_cancel()]
        if not batch:
            return
        images = [image for work in batch for image in work.images]
        try:
            results = iter(self.recognizer.predict(images, k, on_error="skip"))
        except Exception as error:  # such as a device out of memory: these requests fail, later ones may not
            log.error("serve: a batch of %d images failed", len(images), exc_info=error)
            for work in batch:
                work.results.set_exception(error)
            return
        self.on_batch(len(images))
        for work in batch:
            work.results.set_result([next(results) for _ in work.images])
