"""Candidate retrieval for mining: searches that can exclude each query's copies, and splits into disjoint halves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.core.records import Candidate, Sample
from data_prep.core.rng import rng_for
from data_prep.embedding.pair import Queries
from data_prep.memory.memories import Memories
from data_prep.settings import RetrieverArgs


def split_halves(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Splits each class into two disjoint random halves: the memory, larger by one if the count is odd, and queries."""
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_class[sample.label].append(sample)
    memory, queries = [], []
    for label, class_samples in by_class.items():
        order = rng_for(seed, "halves", label).permutation(len(class_samples))
        in_memory = set(order[: (len(class_samples) + 1) // 2].tolist())
        memory += [sample for index, sample in enumerate(class_samples) if index in in_memory]
        queries += [sample for index, sample in enumerate(class_samples) if index not in in_memory]
    return memory, queries


@dataclass(frozen=True)
class Neighbours:
    """Retrieves candidates from one source; called blockwise.

    Attributes:
        memories: The memories to search.
        source: ``image``, ``name``, ``fused`` or an adapter.
        xq: Unit queries of shape ``[nq, d]``, or those of each memory's encoder.
        depth: Number of candidates per query.
        retriever: Search settings.
        names: Class names by label.
        exclude: A digest per query, whose images are excluded from its candidates; None to exclude nothing.
    """

    memories: Memories
    source: str
    xq: Queries
    depth: int
    retriever: RetrieverArgs
    names: Sequence[str]
    exclude: Sequence[str] | None

    def __call__(self, rows: np.ndarray) -> list[tuple[Candidate, ...]]:
        """Returns the candidates of each query, best first."""
        xq = self.xq[rows]
        exclude = [self.exclude[row] for row in rows] if self.exclude else None
        return self.memories.candidates(self.source, xq, self.depth, self.retriever, self.names, exclude)
