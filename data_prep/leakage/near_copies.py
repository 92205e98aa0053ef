"""Near-duplicate images: search by cosine similarity, grouping, and one digest per group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.core.records import Sample
from data_prep.memory.fetching import widening_fetches
from data_prep.memory.memory import Memory

_FIRST_FETCH = 16  # neighbours compared with the threshold at first; doubled while all of them pass it


@dataclass(frozen=True)
class NearCopies:
    """Finds the entries similar enough to a query to show the same image; called blockwise.

    Attributes:
        memory: Images.
        xq: Unit queries of shape ``[nq, d]``.
        threshold: Minimum cosine similarity.
    """

    memory: Memory
    xq: np.ndarray
    threshold: float

    def __call__(self, rows: np.ndarray) -> list[list[tuple[int, float]]]:
        """Returns, for each query, the positions of its near-duplicates in ``memory.entries`` and their similarity."""
        matches: list[list[tuple[int, float]]] = [[] for _ in rows]
        is_full = np.zeros(len(rows), bool)  # all fetched entries are near-duplicates
        for open_rows, fetch in widening_fetches(len(rows), len(self.memory), _FIRST_FETCH, is_full.__getitem__):
            similarities, ids = self.memory.search(self.xq[rows[open_rows]], fetch)
            positions = self.memory.rows(ids)
            for row, scores, hits, valid in zip(open_rows, similarities, positions, ids >= 0, strict=True):
                near = (scores >= self.threshold) & valid
                is_full[row] = near.all()
                matches[row] = [(int(hit), float(score)) for hit, score in zip(hits[near], scores[near], strict=True)]
        return matches


@dataclass(frozen=True)
class Copies:
    """Groups of images that are copies of each other: the same bytes, or near-duplicates.

    Attributes:
        groups: From each content digest to the digest that represents its group.
        equal: Number of samples whose bytes an earlier sample has.
        near: Pairs of keys with different bytes and their similarity, each pair once.
        conflicting: Number of groups whose samples are of several classes.
    """

    groups: dict[str, str]
    equal: int
    near: list[tuple[str, str, float]]
    conflicting: int


def group_copies(samples: Sequence[Sample], memory: Memory, near: Sequence[Sequence[tuple[int, float]]]) -> Copies:
    """Groups byte-identical samples and near-duplicates; copies of a copy are in the same group.

    Args:
        samples: The queries.
        memory: Images; ``near`` refers to its entries.
        near: The result of ``NearCopies`` for each sample.
    """
    groups = {digest: digest for digest in [s.digest for s in samples] + [e.digest for e in memory.entries]}

    def root(digest: str) -> str:
        while groups[digest] != digest:
            groups[digest] = digest = groups[groups[digest]]
        return digest

    pairs: dict[tuple[str, str], tuple[str, str, float]] = {}
    for sample, matches in zip(samples, near, strict=True):
        for position, similarity in matches:
            entry = memory.entries[position]
            if entry.digest != sample.digest:
                pair = tuple(sorted((sample.digest, entry.digest)))
                pairs.setdefault(pair, (sample.key, entry.key, similarity))
                low, high = sorted((root(sample.digest), root(entry.digest)))
                groups[high] = low
    labels_by_group: dict[str, set[int]] = defaultdict(set)
    for item in (*samples, *memory.entries):
        labels_by_group[root(item.digest)].add(item.label)
    conflicting = sum(len(labels) > 1 for labels in labels_by_group.values())
    equal = len(samples) - len({sample.digest for sample in samples})
    return Copies({digest: root(digest) for digest in groups}, equal, list(pairs.values()), conflicting)
