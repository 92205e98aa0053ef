"""Resampled streaming: samples shards with replacement, for data too large to index or to permute."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from data_prep.core.records import RankingExample
from data_prep.mining.shards import check_files, read_index_lines, read_metadata, read_pair
from rar_train.engine.sampler import DataPosition

_OPEN_SHARDS = 4  # shards that a stream reads alternately, so that a batch mixes examples of several shards


class ShardStream:
    """A folder of shards without a global index: each shard is verified and indexed when it is first sampled.

    Args:
        folder: A folder that ``write_shards`` filled.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_metadata(folder)
        skipped = {*self.manifest["shards"], "index.jsonl"}  # shards are verified when sampled; the index is not read
        check_files(folder, {name: digest for name, digest in self.manifest["files"].items() if name not in skipped})
        self.counts = {name: count for name, count in self.manifest["shards"].items() if count}

    def __len__(self) -> int:
        return self.manifest["examples"]

    def read(self, shard: str, row: int) -> tuple[RankingExample, Image.Image]:
        """Reads one example of a shard, and its image.

        Raises:
            UserError: The shard is missing or damaged.
        """
        return read_pair(self.folder, _read_lines(self.folder, shard, self.manifest["files"][shard])[row])


@lru_cache(maxsize=2 * _OPEN_SHARDS)
def _read_lines(folder: Path, shard: str, digest: str) -> list[dict]:
    check_files(folder, {shard: digest})
    return read_index_lines(folder / shard)


class ResampledBatches(IterableDataset):
    """An endless stream of batches that depends on seed and rank, but not on the number of workers.

    The order of the stream follows from the shards' sizes alone, so resuming from a position reads none of the examples
    before it.

    Args:
        stream: The shards.
        batch_size: Examples per batch.
        rank: Rank of this process.
        seed: Seed of the sampling.
        position: Where to start.
    """

    def __init__(self, stream: ShardStream, batch_size: int, rank: int, seed: int, position: DataPosition):
        self.stream, self.batch_size, self.rank, self.seed = stream, batch_size, rank, seed
        self.position = position

    def _sample(self) -> Iterator[tuple[str, int, int]]:
        """Yields shard, row, and the index of the shard's draw, which determines the order of the candidates."""
        rng = np.random.default_rng([self.seed, self.rank])
        names = list(self.stream.counts)
        draws = 0
        open_shards: list[tuple[str, int, list[int]]] = []
        while True:
            while len(open_shards) < _OPEN_SHARDS:
                name = names[rng.integers(len(names))]
                open_shards.append((name, draws, rng.permutation(self.stream.counts[name]).tolist()))
                draws += 1
            slot = int(rng.integers(_OPEN_SHARDS))
            name, draw, rows = open_shards[slot]
            yield name, rows.pop(), draw
            if not rows:
                del open_shards[slot]

    def __iter__(self) -> Iterator[list[tuple[tuple[RankingExample, Image.Image], int]]]:
        worker = get_worker_info()
        worker_id, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        sampled = self._sample()
        index = -self.position.batches
        while True:
            batch = [next(sampled) for _ in range(self.batch_size)]
            # A loader takes batches from its workers round-robin, starting with the first.
            if index >= 0 and index % workers == worker_id:
                yield [(self.stream.read(shard, row), draw) for shard, row, draw in batch]
            index += 1
