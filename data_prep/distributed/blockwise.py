"""Runs a search over many queries with ``Trainer.predict``, in one process or several.

Queries are split into fixed blocks before the blocks are distributed, so a query is always searched together with the
same other queries, whatever the number of processes. Its similarities are bit-identical where processes search on the
same kind of device with the same number of threads, and otherwise equal but for rounding in float32: an exact search
takes a GPU only while that has room.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader

from data_prep.core.progress import progress_bar
from data_prep.distributed.spawning import make_predict_trainer, run_predict

BLOCK = 4096  # queries
_SMALL = 20  # a remainder of fewer queries joins the previous block: products of few may be summed in another order
LEAST_BLOCKS = 2  # per process: with fewer, starting processes takes longer than it saves


def block_rows(queries: int) -> list[np.ndarray]:
    """Returns the query indices of each block."""
    cuts = [start for start in range(BLOCK, queries, BLOCK) if queries - start >= _SMALL]
    return np.split(np.arange(queries), cuts)


class SearchModule(L.LightningModule):
    """Applies a search to this process's share of the blocks.

    Args:
        search: Maps query indices to a list with one result for each; picklable.
        blocks: Query indices of every block, for all processes.
    """

    def __init__(self, search: Callable[[np.ndarray], list], blocks: list[np.ndarray]):
        super().__init__()
        self.search, self.blocks = search, blocks

    def predict_dataloader(self) -> DataLoader:
        """Returns this process's block indices: every ``world_size``-th, starting at its rank."""
        block_indices = range(self.global_rank, len(self.blocks), self.trainer.world_size)
        return DataLoader(list(block_indices), batch_size=None)

    def predict_step(self, block_index: int, _) -> tuple[int, list]:
        """Searches one block.

        Returns:
            tuple[int, list]: The block's index, and a result for each of its queries.
        """
        return block_index, self.search(self.blocks[block_index])


class _BlockWriter(BasePredictionWriter):
    """Writes each block's results to a separate file, for the process that spawned the others."""

    def __init__(self, folder: Path):
        super().__init__("batch")
        self.folder = folder

    def on_predict_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens a progress bar on the first process."""
        self.bar = (
            progress_bar("searching blocks", total=trainer.num_predict_batches[0]) if trainer.is_global_zero else None
        )

    def write_on_batch_end(self, trainer, module, prediction: tuple[int, list], *rest) -> None:
        """Writes one block."""
        block_index, results = prediction
        (self.folder / str(block_index)).write_bytes(pickle.dumps(results))
        if self.bar is not None:
            self.bar.update()

    def on_predict_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Closes the progress bar."""
        if self.bar is not None:
            self.bar.close()


def search_blockwise(search: Callable[[np.ndarray], list], queries: int, processes: int) -> list[Any]:
    """Searches all queries, in one process or several.

    Args:
        search: As in ``SearchModule``.
        queries: Number of queries.
        processes: On this machine; one is used where there are too few queries for several to pay off.

    Returns:
        list[Any]: A result for each query, in query order.
    """
    blocks = block_rows(queries)
    parallel = processes > 1 and len(blocks) >= LEAST_BLOCKS * processes
    with tempfile.TemporaryDirectory() as folder:
        # The module has no weights to move; a search takes a GPU by itself where that pays off.
        trainer = make_predict_trainer("cpu", processes if parallel else 1, callbacks=[_BlockWriter(Path(folder))])
        run_predict(trainer, SearchModule(search, blocks))
        # Safe to unpickle: written by this command's processes, into a folder that only its user can open.
        return [
            result
            for block_index in range(len(blocks))
            for result in pickle.loads((Path(folder) / str(block_index)).read_bytes())
        ]
