"""Computes embeddings with ``Trainer.predict`` in one process, several, or on several machines, bit-identically.

The missing rows are split into batches before they are distributed, complete batches go to each process, and a batch
is stored completely or not at all. A row is therefore always embedded in the same batch, whatever the number of
processes and also when a killed run is resumed.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_prep.core.command import quiet_libraries
from data_prep.core.pools import available_cores, loader_options
from data_prep.core.progress import progress_bar
from data_prep.distributed.devices import resolve_accelerator
from data_prep.distributed.spawning import make_predict_trainer, run_predict
from data_prep.embedding.base import Encoder, encode_images, encode_prompts, stack
from data_prep.embedding.store import EmbeddingStore

log = logging.getLogger(__name__)

_PART_ROWS = 4096  # a part file is written when this many vectors are buffered
_PART_SECONDS = 30  # or after this long, the most work that a kill can lose
_LOG_SECONDS = 10
_MIN_BATCHES = 8  # per process: with fewer, starting processes takes longer than it saves


class _Batches(Dataset):
    """Dataset whose items are complete batches; Lightning would replace a batch sampler with its own."""

    def __init__(self, rows: Dataset, batches: list[list[int]]):
        self.rows, self.batches = rows, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[str, list[str], Any]:
        kinds, keys, values = zip(*(self.rows[row] for row in self.batches[index]), strict=True)
        return kinds[0], list(keys), stack(values)


class EncoderModule(L.LightningModule):
    """Embeds this process's share of the batches.

    Args:
        encoder: Embeds them.
        rows: Dataset of ``(kind, key, values)``: ``image`` with what the encoder's ``preprocess`` returned, or ``name``
            with a list of prompts, one for each template.
        batches: Row indices of each batch, for all processes.
        workers: Data-loading processes that prepare rows while the model runs.
    """

    def __init__(self, encoder: Encoder, rows: Dataset, batches: list[list[int]], workers: int):
        super().__init__()
        self.encoder = encoder
        self.rows, self.batches, self.workers = rows, batches, workers

    def setup(self, stage: str) -> None:
        """Sets up logging in a spawned process, which has not run the command that does so."""
        if multiprocessing.parent_process() is not None:
            quiet_libraries()

    def predict_dataloader(self) -> DataLoader:
        """Returns a loader of this process's batches: every ``world_size``-th, starting at its rank."""
        rank_batches = self.batches[self.global_rank :: self.trainer.world_size]
        return DataLoader(
            _Batches(self.rows, rank_batches),
            batch_size=None,
            pin_memory=self.device.type == "cuda",
            **loader_options(self.workers),
        )

    def on_predict_start(self) -> None:
        """Moves the encoder to this process's device."""
        self.encoder.to(self.device)

    def on_predict_end(self) -> None:
        """Moves the encoder back, since the ranker may need the device's memory."""
        self.encoder.to(torch.device("cpu"))

    def predict_step(self, batch: tuple[str, list[str], Any], _) -> Tensor:
        """Embeds one batch.

        Returns:
            Tensor: Unit vectors in float32 on the CPU, shape ``[n, d]``; a name's vector is the mean over its
            templates, normalised again.
        """
        kind, keys, values = batch
        if kind == "image":
            return torch.from_numpy(encode_images(self.encoder, values, len(keys)))
        return torch.from_numpy(encode_prompts(self.encoder, values))


class PartWriter(BasePredictionWriter):
    """Writes this process's vectors to the store in part files, and reports progress and throughput.

    Args:
        store: Where the vectors are written.
        items: What is embedded, for messages: ``images``, ``regions``, ``names`` or ``descriptions``.
    """

    def __init__(self, store: EmbeddingStore, items: str):
        super().__init__("batch")
        self.store, self.items = store, items
        self.keys: list[str] = []
        self.vectors: list[np.ndarray] = []
        self.done = 0

    def on_predict_start(self, trainer: L.Trainer, module: EncoderModule) -> None:
        """Starts the timers and the progress bar."""
        self.started = self.flushed = self.logged = time.monotonic()
        self.total = sum(map(len, module.batches))
        self.bar = progress_bar(f"embedding {self.items}", total=self.total) if trainer.is_global_zero else None

    def write_on_batch_end(
        self, trainer: L.Trainer, module: EncoderModule, prediction: Tensor, _, batch, *rest
    ) -> None:
        """Buffers a batch, and writes a part file when one is due."""
        self.keys += batch[1]
        self.vectors.append(prediction.numpy())
        self.done += len(prediction)
        now = time.monotonic()
        if len(self.keys) >= _PART_ROWS or now - self.flushed > _PART_SECONDS:
            self._flush(now)
        if self.bar is not None:
            self._report(min(self.done * trainer.world_size, self.total), now)

    def on_predict_end(self, trainer: L.Trainer, module: EncoderModule) -> None:
        """Writes the remaining vectors, and waits until every process has done so."""
        self._flush(time.monotonic())
        if self.bar is not None:
            self.bar.close()
            self._log(self.total)
        trainer.strategy.barrier()

    def _flush(self, now: float) -> None:
        if self.keys:
            self.store.write(self.keys, np.concatenate(self.vectors))
        self.keys, self.vectors, self.flushed = [], [], now

    def _report(self, done: int, now: float) -> None:
        """Advances the progress bar, or logs a line from time to time where none is shown."""
        if not self.bar.disable:
            self.bar.update(done - self.bar.n)
        elif now - self.logged > _LOG_SECONDS:
            self.logged = now
            self._log(done)

    def _log(self, done: int) -> None:
        throughput = done / max(time.monotonic() - self.started, 1e-9)
        log.info("embeddings: %d of %d %s, %.1f %s/s", done, self.total, self.items, throughput, self.items)


def count_workers(setting: int, devices: int, batches: int) -> int:
    """Returns the number of data-loading workers for each process that embeds.

    Args:
        setting: ``retriever.num_workers``; -1 divides the machine's cores among the processes, less one core for each
            process itself.
        devices: Processes that embed on this machine.
        batches: Number of batches; a worker for fewer than eight batches costs more than it saves.
    """
    if setting >= 0:
        return setting
    return max(0, min(available_cores() // devices - 1, batches // devices // 8, 16))


def embed_missing(
    encoder: Encoder,
    rows: Dataset,
    missing: Sequence[int],
    batch_size: int,
    workers: int,
    writer: PartWriter,
) -> None:
    """Embeds rows into the writer's store.

    Args:
        encoder: Embeds them, on its ``processes``. With several machines, the same command runs on each, with
            ``NODE_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT`` set, and they share the cache folder.
        rows: As in ``EncoderModule``.
        missing: Indices of the rows to embed.
        batch_size: Rows per batch.
        workers: ``retriever.num_workers``.
        writer: Writes to the store.

    Raises:
        UserError: A process failed; the message is its own.
    """
    args = encoder.processes
    batches = [list(missing[start : start + batch_size]) for start in range(0, len(missing), batch_size)]
    kind, world = resolve_accelerator(args), args.devices * args.num_nodes
    parallel = world > 1 and len(batches) >= _MIN_BATCHES * world
    devices, num_nodes = (args.devices, args.num_nodes) if parallel else (1, 1)
    trainer = make_predict_trainer(kind, devices, num_nodes, [writer])
    module = EncoderModule(encoder, rows, batches, count_workers(workers, args.devices, len(batches)))
    run_predict(trainer, module)
