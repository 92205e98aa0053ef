"""Searches for many queries under ``Trainer.predict``: in one process or several, with the same result.

Queries are cut into blocks before they are dealt out, so that a query is searched for in the same
company whatever the number of processes, and its similarities agree to the last bit.
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
from data_prep.distributed.spawning import predicting_strategy, spawning

BLOCK = 4096  # as FAISS itself cuts queries
_SMALL = 20  # FAISS sums so few queries in another way; a remainder of so few joins the block before it
LEAST_BLOCKS = 2  # per process: below it, starting processes takes longer than they save


def block_rows(queries: int) -> list[np.ndarray]:
    """Numbers of the queries of each block."""
    cuts = [start for start in range(BLOCK, queries, BLOCK) if queries - start >= _SMALL]
    return np.split(np.arange(queries), cuts)


class SearchModule(L.LightningModule):
    """Applies a search to the blocks that its own loader deals to this process.

    Args:
        search: From numbers of queries to a list with one result for each; picklable.
        blocks: Of all processes.
    """

    def __init__(self, search: Callable[[np.ndarray], list], blocks: list[np.ndarray]):
        super().__init__()
        self.search, self.blocks = search, blocks

    def predict_dataloader(self) -> DataLoader:
        """Every ``world``-th block, beginning with this process's own."""
        own = range(self.global_rank, len(self.blocks), self.trainer.world_size)
        return DataLoader(list(own), batch_size=None)

    def predict_step(self, number: int, _) -> tuple[int, list]:
        """Searches for one block.

        Returns:
            tuple[int, list]: The block's number, and a result for each of its queries.
        """
        return number, self.search(self.blocks[number])


class _BlockWriter(BasePredictionWriter):
    """Writes each block's results to a file of its own, for the process that started the others."""

    def __init__(self, folder: Path):
        super().__init__("batch")
        self.folder = folder

    def on_predict_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Shows how far the first process is."""
        self.bar = (
            progress_bar("searching blocks", total=trainer.num_predict_batches[0]) if trainer.is_global_zero else None
        )

    def write_on_batch_end(self, trainer, module, prediction: tuple[int, list], *rest) -> None:
        """Writes one block."""
        number, results = prediction
        (self.folder / str(number)).write_bytes(pickle.dumps(results))
        if self.bar is not None:
            self.bar.update()

    def on_predict_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.close()


def search_blockwise(search: Callable[[np.ndarray], list], queries: int, processes: int) -> list[Any]:
    """Searches for all queries.

    Args:
        search: As in ``SearchModule``.
        queries: How many there are.
        processes: On this machine; fewer queries than pay for them are searched for in one.

    Returns:
        list[Any]: A result for each query, in their order.
    """
    blocks = block_rows(queries)
    several = processes > 1 and len(blocks) >= LEAST_BLOCKS * processes
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            strategy=predicting_strategy("cpu", several),
            accelerator="cpu",  # FAISS searches there
            devices=processes if several else 1,
            callbacks=[_BlockWriter(Path(folder))],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        with spawning():
            trainer.predict(SearchModule(search, blocks), return_predictions=False)
        # Not from outside: this command's own processes wrote them, into a folder that only its user can enter.
        return [
            result
            for number in range(len(blocks))
            for result in pickle.loads((Path(folder) / str(number)).read_bytes())
        ]
