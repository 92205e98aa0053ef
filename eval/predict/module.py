"""Labels one process's share of a job under ``Trainer.predict``, and writes its parts."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

import lightning as L
from torch.utils.data import DataLoader

from data_prep.core.pools import loader_options
from data_prep.core.progress import progress_bar
from eval.predict.items import Item
from eval.predict.job import Job
from eval.predict.opening import ImageBatch, ImageBatches
from eval.recognizer.recognizer import Recognizer
from eval.recognizer.result import Recognition

log = logging.getLogger(__name__)

_LOG_SECONDS = 10


def to_record(item: Item, result: Recognition, top: int) -> dict:
    """Makes the output record of an image: ``path``, ``id``, ``box``, and the result's ``to_dict``.

    Args:
        item: The image.
        result: What it was recognised as, or why it has no label.
        top: Maximum number of candidates.
    """
    return item.record() | result.to_dict(top)


class Progress:
    """Progress with images/s and time left: a bar at a terminal, else a line in the log from time to time.

    Args:
        total: Images to label by all processes in this call.
        processes: Number of processes that share them; they are taken to be equally fast.
        show: Whether this process shows it.
    """

    def __init__(self, total: int, processes: int, show: bool):
        self.total, self.processes, self.show = total, processes, show
        self.done = 0
        self.started = self.logged = time.monotonic()
        self.bar = progress_bar("labelling", total=total) if show else None

    def update(self, count: int) -> None:
        """Counts images of this process."""
        self.done += count
        if self.bar is None:
            return
        done, now = min(self.done * self.processes, self.total), time.monotonic()
        self.bar.update(done - self.bar.n)
        if self.bar.disable and now - self.logged > _LOG_SECONDS:
            self.logged = now
            speed = done / (now - self.started)
            minutes, seconds = divmod(int((self.total - done) / speed), 60)
            left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
            log.info("labelling: %d of %d images, %.1f images/s, %s left", done, self.total, speed, left)

    def close(self) -> None:
        """Removes the bar."""
        if self.bar is not None:
            self.bar.close()


class PredictModule(L.LightningModule):
    """Labels this process's share of the missing parts.

    Args:
        load: Loads the recognizer, on each process.
        job: The job.
        pending: Parts that were missing when this call began; process i of n labels every n-th from the i-th on.
        processes: Number of processes, on all machines.
        first: Index of this command's first process among them.
        workers: Data-loading workers per process.
        top: Candidates per record.
    """

    def __init__(
        self,
        load: Callable[[], Recognizer],
        job: Job,
        pending: list[int],
        processes: int,
        first: int,
        workers: int,
        top: int,
    ):
        super().__init__()
        self.load, self.job, self.pending, self.processes, self.first = load, job, pending, processes, first
        self.workers, self.top = workers, top
        self.lines: dict[int, list[str]] = {}

    def setup(self, stage: str) -> None:
        """Loads the recognizer, once the process has its device."""
        self.recognizer = self.load()

    def predict_dataloader(self) -> DataLoader:
        """Returns the images of this process's parts, opened by workers."""
        parts = self.pending[self.first + self.trainer.global_rank :: self.processes]
        batches = ImageBatches(self.job, parts, self.recognizer.recipe.retriever.regions)
        return DataLoader(batches, batch_size=None, **loader_options(min(self.workers, len(parts))))

    def transfer_batch_to_device(self, batch: ImageBatch, *rest) -> ImageBatch:
        """Leaves the images in main memory, where the recognizer expects them."""
        return batch

    def on_predict_start(self) -> None:
        """Starts the progress."""
        is_first = self.first + self.trainer.global_rank == 0
        self.progress = Progress(self.job.count_images(self.pending), self.processes, is_first)

    def predict_step(self, batch: ImageBatch, _) -> None:
        """Labels a batch, and writes its part when it is complete."""
        images = batch.images()
        results = iter(self.recognizer.predict(images, on_error="skip"))
        lines = self.lines.setdefault(batch.part, [])
        for item, reason in zip(batch.items, batch.reasons, strict=True):
            record = to_record(item, Recognition.from_error(reason) if reason else next(results), self.top)
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        if batch.ends_part:
            self.job.write_part(batch.part, self.lines.pop(batch.part))
        self.progress.update(len(batch.items))

    def on_predict_end(self) -> None:
        """Ends the progress."""
        self.progress.close()
