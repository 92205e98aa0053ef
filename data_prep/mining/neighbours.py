"""Who may be whose neighbour: a query must not find itself, nor another copy of the same picture."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_prep.core.records import Candidate, Sample
from data_prep.core.rng import rng_for
from data_prep.memory.memories import Memories
from data_prep.memory.memory import Memory
from data_prep.settings import RetrieverArgs

log = logging.getLogger(__name__)

_FIRST_FETCH = 16  # neighbours that are compared with the threshold at first, widened while all pass it


@dataclass(frozen=True)
class NearCopies:
    """Finds the entries that are so near to a query that they show the same picture; searches blockwise.

    Attributes:
        memory: Images.
        xq: Unit queries of shape ``[nq, d]``.
        above: Least cosine similarity.
    """

    memory: Memory
    xq: np.ndarray
    above: float

    def __call__(self, rows: np.ndarray) -> list[list[tuple[int, float]]]:
        """The places of such entries, each with its similarity, by query."""
        found: list[list[tuple[int, float]]] = [[] for _ in rows]
        left, fetch = np.arange(len(rows)), _FIRST_FETCH
        while len(left):
            similarities, ids = self.memory.search(self.xq[rows[left]], fetch)
            places = self.memory.rows(ids)
            for row, scores, hits, shown in zip(left, similarities, places, ids >= 0, strict=True):
                near = (scores >= self.above) & shown
                found[row] = [(int(hit), float(score)) for hit, score in zip(hits[near], scores[near], strict=True)]
            if fetch >= len(self.memory.entries):
                break
            left, fetch = left[[len(found[row]) == fetch for row in left]], 2 * fetch
        return found


@dataclass(frozen=True)
class Copies:
    """Which contents are the same picture.

    Attributes:
        groups: From a content digest to the digest that stands for its group.
        equal: Samples whose bytes an earlier sample has.
        near: Pairs of keys with different bytes and their similarity, each pair once.
        conflicting: Groups whose samples are of several classes.
    """

    groups: dict[str, str]
    equal: int
    near: list[tuple[str, str, float]]
    conflicting: int


def group_copies(samples: Sequence[Sample], memory: Memory, near: Sequence[Sequence[tuple[int, float]]]) -> Copies:
    """Joins byte-identical samples and those found near each other; copies of a copy are copies.

    Args:
        samples: The queries.
        memory: Images, whose entries ``near`` names.
        near: What ``NearCopies`` found for each sample.
    """
    groups = {digest: digest for digest in [s.digest for s in samples] + [e.digest for e in memory.entries]}

    def root(digest: str) -> str:
        while groups[digest] != digest:
            groups[digest] = digest = groups[groups[digest]]
        return digest

    pairs: dict[tuple[str, str], tuple[str, str, float]] = {}
    for sample, hits in zip(samples, near, strict=True):
        for place, similarity in hits:
            entry = memory.entries[place]
            if entry.digest != sample.digest:
                pair = tuple(sorted((sample.digest, entry.digest)))
                pairs.setdefault(pair, (sample.key, entry.key, similarity))
                low, high = sorted((root(sample.digest), root(entry.digest)))
                groups[high] = low
    by_group: dict[str, set[int]] = defaultdict(set)
    for item in (*samples, *memory.entries):
        by_group[root(item.digest)].add(item.label)
    conflicting = sum(len(labels) > 1 for labels in by_group.values())
    equal = len(samples) - len({sample.digest for sample in samples})
    return Copies({digest: root(digest) for digest in groups}, equal, list(pairs.values()), conflicting)


def replace_digests(memory: Memory, groups: dict[str, str]) -> Memory:
    """The memory with each entry's digest replaced by its group's, so that leaving out one leaves out its copies."""
    grouped = copy.copy(memory)
    grouped.entries = tuple(replace(entry, digest=groups[entry.digest]) for entry in memory.entries)
    return grouped


def split_halves(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Two disjoint halves of each class: the memory, the larger where the number is odd, and the queries."""
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_class[sample.label].append(sample)
    memory, queries = [], []
    for label, own in by_class.items():
        order = rng_for(seed, "halves", label).permutation(len(own))
        first = set(order[: (len(own) + 1) // 2].tolist())
        memory += [sample for place, sample in enumerate(own) if place in first]
        queries += [sample for place, sample in enumerate(own) if place not in first]
    return memory, queries


@dataclass(frozen=True)
class Neighbours:
    """Retrieves candidates by one source; searches blockwise.

    Attributes:
        memories: What candidates come from.
        source: ``image``, ``name`` or ``fused``.
        xq: Unit queries of shape ``[nq, d]``.
        depth: Candidates for each.
        retriever: Search settings.
        names: Class names by label.
        exclude: A digest per query, whose images do not count.
    """

    memories: Memories
    source: str
    xq: np.ndarray
    depth: int
    retriever: RetrieverArgs
    names: Sequence[str]
    exclude: Sequence[str] | None

    def __call__(self, rows: np.ndarray) -> list[tuple[Candidate, ...]]:
        """Candidates by query, best first."""
        xq = self.xq[rows]
        exclude = [self.exclude[row] for row in rows] if self.exclude else None
        return self.memories.candidates(self.source, xq, self.depth, self.retriever, self.names, exclude)
