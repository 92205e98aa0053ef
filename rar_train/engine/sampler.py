"""Batch sampler over epochs of training examples, resumable from a position saved in checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
from torch.utils.data import Sampler


@dataclass
class DataPosition:
    """A run's position in its data.

    Attributes:
        batches: Number of batches that every process has trained on.
    """

    batches: int = 0


class SampledExample(NamedTuple):
    """An example as the sampler yields it.

    Attributes:
        row: Its index.
        epoch: Index of the pass over the examples.
        weight: Weight of its loss; see ``RankingBatch.weights``. 0 for a filler on a process that has no example left.
    """

    row: int
    epoch: int
    weight: float


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """How epochs are divided into batches of all processes: every example once per epoch.

    Each epoch is a seeded permutation of all examples, cut into complete steps of ``accumulate`` batches whose sizes
    differ by one example at most, none over ``batch_size`` per process.

    Attributes:
        examples: Number of examples.
        batch_size: Maximum number of examples per process and batch.
        world: Number of processes.
        epochs: Passes over the examples.
        seed: Seed of the permutations.
        lengths: Lengths of the examples; where given, a batch contains examples of similar length.
        full: Whether every batch has the maximum size, for losses that compare its examples. An epoch then leaves
            out its tail, other examples in each epoch.
        accumulate: Batches per step; a step does not span epochs. Not for ``full`` batches, which all weigh the same.
    """

    examples: int
    batch_size: int
    world: int
    epochs: int
    seed: int
    lengths: np.ndarray | None = None
    full: bool = False
    accumulate: int = 1

    GROUPED: ClassVar[int] = 50
    """Number of batches within which examples are sorted by length; more make lengths more similar, and less random."""

    @cached_property
    def edges(self) -> np.ndarray:
        """Where an epoch's batches begin and end in its permutation."""
        size = self.batch_size * self.world
        if self.full:
            return np.arange(0, self.examples + 1, size)
        batches = -(-self.examples // (size * self.accumulate)) * self.accumulate
        return np.arange(batches + 1) * self.examples // batches

    @property
    def per_epoch(self) -> int:
        """Number of batches of one process in an epoch."""
        return len(self.edges) - 1

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Returns an epoch's batches, each over all processes."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.examples)[: self.edges[-1]]
        if self.lengths is None:
            return np.split(order, self.edges[1:-1])
        pieces = np.split(order, self.edges[self.GROUPED : -1 : self.GROUPED])
        grouped = np.concatenate([piece[np.argsort(self.lengths[piece], kind="stable")] for piece in pieces])
        batches = np.split(grouped, self.edges[1:-1])
        return [batches[index] for index in rng.permutation(len(batches))]

    def weight(self, batches: list[np.ndarray], index: int) -> float:
        """Returns the weight of a batch's examples, from the number of examples in its step."""
        first = index - index % self.accumulate
        examples = sum(map(len, batches[first : first + self.accumulate]))
        return self.accumulate * self.world / examples


class EpochSampler(Sampler):
    """One process's batches of an epoch plan; every process has the same number.

    Args:
        plan: The batches of all processes.
        rank: Rank of this process.
        position: Start position.
    """

    def __init__(self, plan: EpochPlan, rank: int, position: DataPosition):
        self.plan, self.rank, self.position = plan, rank, position

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[SampledExample]]:
        current_epoch = -1
        for index in range(self.position.batches, len(self)):
            epoch, batch = divmod(index, self.plan.per_epoch)
            if epoch != current_epoch:
                batches, current_epoch = self.plan.batches(epoch), epoch
            weight = self.plan.weight(batches, batch)
            rows = batches[batch][self.rank :: self.plan.world]
            # Every process takes part in every forward pass; one without an example gets the first, with weight 0.
            yield [SampledExample(int(row), epoch, weight) for row in rows] or [SampledExample(0, epoch, 0.0)]
