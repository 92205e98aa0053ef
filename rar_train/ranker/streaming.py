"""Resampled streaming: whole shards drawn with replacement, for data too large to index or to permute."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from data_prep.core.records import RankingExample
from data_prep.mining.shards import check_files, index_lines, read_metadata, read_pair
from rar_train.engine.sampler import DataPosition

_OPEN_SHARDS = 4  # that a stream reads in turn, so that a batch is not of one shard alone


class ShardStream:
    """A folder of shards that is never indexed as a whole: a shard is checked and indexed when it is first drawn.

    Args:
        folder: What ``write_shards`` filled.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_metadata(folder)
        later = {*self.manifest["shards"], "index.jsonl"}  # shards are checked as they are drawn, the index is not read
        check_files(folder, {name: expected for name, expected in self.manifest["files"].items() if name not in later})
        self.counts = {name: count for name, count in self.manifest["shards"].items() if count}

    def __len__(self) -> int:
        return self.manifest["examples"]

    def read(self, shard: str, row: int) -> tuple[RankingExample, Image.Image]:
        """One example of a shard, and its picture.

        Raises:
            UserError: The shard is missing or damaged.
        """
        return read_pair(self.folder, _lines(self.folder, shard, self.manifest["files"][shard])[row])


@lru_cache(maxsize=2 * _OPEN_SHARDS)
def _lines(folder: Path, shard: str, expected: str) -> list[dict]:
    check_files(folder, {shard: expected})
    return index_lines(folder / shard)


class ResampledBatches(IterableDataset):
    """An endless stream of batches that (seed, rank) decides, the same for any number of workers.

    Where an example stands in the stream is known from the shards' sizes alone, so going on from a
    position reads nothing of what came before it.

    Args:
        stream: The shards.
        batch_size: Examples per batch.
        rank: This process.
        seed: Of the draws.
        position: Where to begin.
    """

    def __init__(self, stream: ShardStream, batch_size: int, rank: int, seed: int, position: DataPosition):
        self.stream, self.batch_size, self.rank, self.seed = stream, batch_size, rank, seed
        self.position = position

    def _places(self) -> Iterator[tuple[str, int, int]]:
        """Shard, row, and the number of the shard's draw: it decides the order of the candidates."""
        rng = np.random.default_rng([self.seed, self.rank])
        names = list(self.stream.counts)
        draws = 0
        open_shards: list[tuple[str, int, list[int]]] = []
        while True:
            while len(open_shards) < _OPEN_SHARDS:
                name = names[rng.integers(len(names))]
                open_shards.append((name, draws, rng.permutation(self.stream.counts[name]).tolist()))
                draws += 1
            place = int(rng.integers(_OPEN_SHARDS))
            name, draw, rows = open_shards[place]
            yield name, rows.pop(), draw
            if not rows:
                del open_shards[place]

    def __iter__(self) -> Iterator[list[tuple[tuple[RankingExample, Image.Image], int]]]:
        worker = get_worker_info()
        own, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        places = self._places()
        number = -self.position.batches
        while True:
            batch = [next(places) for _ in range(self.batch_size)]
            # A loader takes batches from its workers in turn, beginning with the first.
            if number >= 0 and number % workers == own:
                yield [(self.stream.read(shard, row), draw) for shard, row, draw in batch]
            number += 1
