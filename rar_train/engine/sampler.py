"""Epochs over training examples, from a position that checkpoints save and restore."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


@dataclass
class DataPosition:
    """Where a run stands in its data.

    Attributes:
        batches: Batches that every process has trained on.
    """

    batches: int = 0


class SampledExample(NamedTuple):
    """An example as the sampler deals it.

    Attributes:
        row: Which one.
        epoch: Which pass over the examples.
        weight: What its loss counts; see ``RankingBatch.weights``. 0 where it only keeps a process busy that has no
            example of its own.
    """

    row: int
    epoch: int
    weight: float


class EpochSampler(Sampler):
    """Deals out epochs by sample: every example once, and every process as many batches.

    Each epoch is a seeded permutation of all examples, cut into whole steps of ``accumulate`` batches that differ by
    one example at most, none over ``batch_size`` per process.

    Args:
        examples: How many there are.
        batch_size: Examples per process and batch, at most.
        rank: This process.
        world: Processes.
        epochs: Passes over the examples.
        seed: Of the permutations.
        position: Where to begin.
        lengths: Of the examples; where given, a batch holds examples of like length.
        full: Whether every batch is as large as it may be, for losses that compare its examples. An epoch then leaves
            out its tail; another epoch leaves out others.
        accumulate: Batches per step; a step is of one epoch. Not for ``full`` batches, which all count the same.
    """

    GROUPED = 50
    """Batches among whose examples like lengths are looked for; the more, the liker, and the less random."""

    def __init__(
        self,
        examples: int,
        batch_size: int,
        rank: int,
        world: int,
        epochs: int,
        seed: int,
        position: DataPosition,
        lengths: np.ndarray | None = None,
        full: bool = False,
        accumulate: int = 1,
    ):
        self.examples, self.lengths = examples, lengths
        self.rank, self.world, self.epochs, self.seed = rank, world, epochs, seed
        self.position, self.accumulate = position, accumulate
        size = batch_size * world
        if full:
            self.edges = np.arange(0, examples + 1, size)
        else:
            batches = -(-examples // (size * accumulate)) * accumulate
            self.edges = np.arange(batches + 1) * examples // batches

    @property
    def per_epoch(self) -> int:
        """Batches of one process."""
        return len(self.edges) - 1

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """An epoch's batches, each of all processes."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.examples)[: self.edges[-1]]
        if self.lengths is None:
            return np.split(order, self.edges[1:-1])
        pieces = np.split(order, self.edges[self.GROUPED : -1 : self.GROUPED])
        grouped = np.concatenate([piece[np.argsort(self.lengths[piece], kind="stable")] for piece in pieces])
        batches = np.split(grouped, self.edges[1:-1])
        return [batches[place] for place in rng.permutation(len(batches))]

    def _weight(self, batches: list[np.ndarray], number: int) -> float:
        """What an example of a batch counts, by how many examples its step has."""
        first = number - number % self.accumulate
        examples = sum(map(len, batches[first : first + self.accumulate]))
        return self.accumulate * self.world / examples

    def __iter__(self) -> Iterator[list[SampledExample]]:
        dealt = -1
        for number in range(self.position.batches, len(self)):
            epoch, batch = divmod(number, self.per_epoch)
            if epoch != dealt:
                batches, dealt = self._batches(epoch), epoch
            weight = self._weight(batches, batch)
            own = batches[batch][self.rank :: self.world]
            # Every process takes part in every pass; one without an example is given the first, which counts nothing.
            yield [SampledExample(int(row), epoch, weight) for row in own] or [SampledExample(0, epoch, 0.0)]
