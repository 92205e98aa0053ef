"""A memory's entries grouped by class and by content, for searches without a loop over queries or classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class ClassLayout:
    """The rows of each class's entries.

    Attributes:
        labels: Labels of the classes, int64, ascending, shape ``[c]``.
        counts: Number of entries of each class, shape ``[c]``.
        starts: Where each class begins in ``rows``, shape ``[c]``.
        rows: Rows of the entries, class by class, and ascending within a class, shape ``[n]``.
    """

    labels: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    rows: np.ndarray

    @classmethod
    def make(cls, entry_labels: np.ndarray) -> ClassLayout:
        """Groups entries by their labels, of shape ``[n]``."""
        rows = np.argsort(entry_labels, kind="stable")
        labels, starts, counts = np.unique(entry_labels[rows], return_index=True, return_counts=True)
        return cls(labels, counts, starts, rows)

    def find(self, labels: np.ndarray) -> np.ndarray:
        """Returns the index of each label among the classes, in the shape of ``labels``; -1 for one without entries."""
        if not len(self.labels):
            return np.full(np.shape(labels), -1)
        found = np.searchsorted(self.labels, labels).clip(max=len(self.labels) - 1)
        return np.where(self.labels[found] == labels, found, -1)

    def entry_classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns each entry's class, as an index, and its position within the class, both of shape ``[n]``."""
        classes, positions = np.empty_like(self.rows), np.empty_like(self.rows)
        classes[self.rows] = np.repeat(np.arange(len(self.labels)), self.counts)
        positions[self.rows] = np.arange(len(self.rows)) - np.repeat(self.starts, self.counts)
        return classes, positions

    def expand(self, classes: np.ndarray) -> np.ndarray:
        """Returns the rows of some classes' entries, one class after the other."""
        counts = self.counts[classes]
        firsts = np.cumsum(counts) - counts
        return self.rows[np.repeat(self.starts[classes] - firsts, counts) + np.arange(counts.sum())]


def rows_by_digest(digests: Sequence[str]) -> dict[str, list[int]]:
    """Groups rows by their digests; those without one are left out."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest:
            rows[digest].append(row)
    return dict(rows)


@dataclass(frozen=True)
class Exclusions:
    """Pairs of a query and an entry that must not answer it.

    Attributes:
        queries: Indices of the queries, ascending, shape ``[p]``.
        rows: Rows of the entries, shape ``[p]``.
    """

    queries: np.ndarray
    rows: np.ndarray

    @classmethod
    def make(cls, by_digest: dict[str, list[int]], exclude: Sequence[str] | None) -> Exclusions:
        """Pairs each query with the entries of the digest that it excludes.

        Args:
            by_digest: Rows of the entries by digest.
            exclude: A digest per query, or None to exclude nothing.
        """
        excluded = [by_digest.get(digest, ()) for digest in exclude or ()]
        counts = np.fromiter(map(len, excluded), np.int64, len(excluded))
        rows = np.fromiter(chain.from_iterable(excluded), np.int64, counts.sum())
        return cls(np.repeat(np.arange(len(excluded)), counts), rows)

    def of_block(self, start: int, size: int) -> Exclusions:
        """Returns the pairs of ``size`` queries from ``start``, which become queries 0, 1 and so on."""
        block = slice(*np.searchsorted(self.queries, [start, start + size]))
        return Exclusions(self.queries[block] - start, self.rows[block])

    def contains(self, queries: np.ndarray, rows: np.ndarray, entries: int) -> np.ndarray:
        """Returns which pairs of queries and rows are excluded.

        Args:
            queries: Indices of queries.
            rows: Rows of entries, in the shape of ``queries``.
            entries: Number of entries in the memory.
        """
        if not len(self.queries):
            return np.zeros(np.shape(rows), bool)
        return np.isin(queries * entries + rows, self.queries * entries + self.rows)
