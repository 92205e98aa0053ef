"""Embeds under ``Trainer.predict``: one process, several, or several machines, with the same bytes.

What is missing is cut into batches before it is dealt out, whole batches to each process, and a
batch is kept whole or not at all. So a vector is computed in the same company whatever the number
of processes, and also where a killed run goes on.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Sequence

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data_prep.core.command import quiet_libraries
from data_prep.core.errors import UserError
from data_prep.core.progress import progress_bar
from data_prep.distributed.devices import resolve_accelerator
from data_prep.distributed.spawning import predicting_strategy, spawning
from data_prep.embedding.store import EmbeddingStore
from data_prep.settings import TrainerArgs

log = logging.getLogger(__name__)

_PART_ROWS = 4096  # a part is written when it holds so many vectors
_PART_SECONDS = 30  # or when so long has passed, so that a kill costs no more
_NEWS_SECONDS = 10
_LEAST_BATCHES = 8  # per process: below it, starting processes takes longer than they save


class _Batches(Dataset):
    """Whole batches by number; Lightning would wrap a sampler of batches anew."""

    def __init__(self, rows: Dataset, batches: list[list[int]]):
        self.rows, self.batches = rows, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[str, list[str], Tensor]:
        kinds, keys, values = zip(*(self.rows[row] for row in self.batches[number]), strict=True)
        return kinds[0], list(keys), torch.stack(values)


class EncoderModule(L.LightningModule):
    """Embeds rows that its own loader deals to this process.

    Args:
        model: open_clip's model.
        dtype: What the model takes pixels in.
        rows: Gives ``(kind, key, values)`` by number: ``image`` with pixels ``[3, h, w]``, or ``name`` with one line
            of token ids for each template, ``[t, context]``.
        batches: Numbers of the rows of each batch.
        workers: Processes that prepare rows while the model runs.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, rows: Dataset, batches: list[list[int]], workers: int):
        super().__init__()
        self.model, self.pixels = model, dtype
        self.rows, self.batches, self.workers = rows, batches, workers

    def setup(self, stage: str) -> None:
        """A spawned process has not passed through the command that sets logging up."""
        if multiprocessing.parent_process() is not None:
            quiet_libraries()

    def predict_dataloader(self) -> DataLoader:
        """Every ``world``-th batch, beginning with this process's own."""
        own = self.batches[self.global_rank :: self.trainer.world_size]
        return DataLoader(
            _Batches(self.rows, own),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )

    def predict_step(self, batch: tuple[str, list[str], Tensor], _) -> Tensor:
        """Embeds one batch.

        Returns:
            Tensor: Unit vectors in float32 on the CPU, shape ``[n, d]``; a name's is the mean over its templates,
            normalised again.
        """
        kind, _, values = batch
        if kind == "image":
            return F.normalize(self.model.encode_image(values.to(self.pixels)).float(), dim=-1).cpu()
        each = F.normalize(self.model.encode_text(values.flatten(0, 1)).float(), dim=-1)
        return F.normalize(each.unflatten(0, values.shape[:2]).mean(1), dim=-1).cpu()


def check_norms(vectors: np.ndarray) -> np.ndarray:
    """Gives unit vectors back.

    Raises:
        UserError: A norm is not 1.
    """
    norms = np.linalg.norm(vectors, axis=1)
    if not np.allclose(norms, 1, atol=1e-4):
        raise UserError(
            f"the encoder gave vectors with norms in {norms.min():.4f}..{norms.max():.4f} instead of 1; "
            "the weights may be damaged"
        )
    return vectors


class PartWriter(BasePredictionWriter):
    """Writes this process's vectors part by part, and says how fast it goes.

    Args:
        store: Where to.
        what: ``images`` or ``names``.
    """

    def __init__(self, store: EmbeddingStore, what: str):
        super().__init__("batch")
        self.store, self.what = store, what
        self.keys: list[str] = []
        self.vectors: list[np.ndarray] = []
        self.done = 0

    def on_predict_start(self, trainer: L.Trainer, module: EncoderModule) -> None:
        """Starts the clocks."""
        self.started = self.flushed = self.told = time.monotonic()
        self.total = sum(map(len, module.batches))
        self.bar = progress_bar(f"embedding {self.what}", total=self.total) if trainer.is_global_zero else None

    def write_on_batch_end(
        self, trainer: L.Trainer, module: EncoderModule, prediction: Tensor, _, batch, *rest
    ) -> None:
        """Takes a batch, and writes a part where one is due."""
        self.keys += batch[1]
        self.vectors.append(check_norms(prediction.numpy()))
        self.done += len(prediction)
        now = time.monotonic()
        if len(self.keys) >= _PART_ROWS or now - self.flushed > _PART_SECONDS:
            self._flush(now)
        if self.bar is not None:
            self._tell(min(self.done * trainer.world_size, self.total), now)

    def on_predict_end(self, trainer: L.Trainer, module: EncoderModule) -> None:
        """Writes the rest, and waits until every process has."""
        self._flush(time.monotonic())
        if self.bar is not None:
            self.bar.close()
            self._log(self.total)
        trainer.strategy.barrier()

    def _flush(self, now: float) -> None:
        if self.keys:
            self.store.write(self.keys, np.concatenate(self.vectors))
        self.keys, self.vectors, self.flushed = [], [], now

    def _tell(self, done: int, now: float) -> None:
        """Moves the bar, or where none is shown writes a line now and then."""
        if not self.bar.disable:
            self.bar.update(done - self.bar.n)
        elif now - self.told > _NEWS_SECONDS:
            self.told = now
            self._log(done)

    def _log(self, done: int) -> None:
        speed = done / max(time.monotonic() - self.started, 1e-9)
        log.info("embeddings: %d of %d %s, %.1f %s/s", done, self.total, self.what, speed, self.what)


def count_workers(asked: int, devices: int, batches: int) -> int:
    """How many processes prepare rows for each process that embeds.

    Args:
        asked: The setting; -1 shares the machine's cores out, one of them left to the process itself.
        devices: Processes that embed on this machine.
        batches: What there is to do; a worker for less than eight batches costs more than it saves.
    """
    if asked >= 0:
        return asked
    return max(0, min(len(os.sched_getaffinity(0)) // devices - 1, batches // devices // 8, 16))


def embed_missing(
    model: nn.Module,
    dtype: torch.dtype,
    rows: Dataset,
    missing: Sequence[int],
    size: int,
    workers: int,
    writer: PartWriter,
    args: TrainerArgs,
) -> None:
    """Embeds some rows into the writer's store.

    Args:
        model: open_clip's model.
        dtype: What it takes pixels in.
        rows: As in ``EncoderModule``.
        missing: Numbers of the rows to embed.
        size: Rows per batch.
        workers: ``retriever.num_workers``.
        writer: Holds the store.
        args: Devices and machines. With several machines, the same command runs on each, with ``NODE_RANK``,
            ``MASTER_ADDR`` and ``MASTER_PORT`` set, and they share the folder of caches.

    Raises:
        UserError: What a process met, in its words.
    """
    batches = [list(missing[start : start + size]) for start in range(0, len(missing), size)]
    kind, world = resolve_accelerator(args), args.devices * args.num_nodes
    several = world > 1 and len(batches) >= _LEAST_BATCHES * world
    trainer = L.Trainer(
        strategy=predicting_strategy(kind, several),
        accelerator=kind,
        devices=args.devices if several else 1,
        num_nodes=args.num_nodes if several else 1,
        callbacks=[writer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    module = EncoderModule(model, dtype, rows, batches, count_workers(workers, args.devices, len(batches)))
    with spawning():
        trainer.predict(module, return_predictions=False)
