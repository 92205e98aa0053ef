"""Searches through a memory's index: they fetch more and more entries, until every query has found enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from data_prep.memory.columns import Results, best_first, keep_first, mark_first
from data_prep.memory.layout import Exclusions
from data_prep.memory.memory import Memory
from data_prep.memory.options import SearchOptions
from data_prep.memory.pairs import score_pairs

_MOST_QUERIES = 1024


def _fetch(memory: Memory, xq: np.ndarray, queries: np.ndarray, fetch: int, exclusions: Exclusions) -> Results:
    """Fetches the nearest entries of some queries.

    Returns:
        Results: Similarities and rows of the memory, ``[len(queries), fetch]`` or fewer; -1 where an entry is excluded,
        or an approximate index found none.
    """
    similarities, ids = memory.search(xq[queries], fetch)
    rows = memory.rows(ids)
    hidden = exclusions.contains(np.broadcast_to(queries[:, None], rows.shape), rows, len(memory))
    return similarities, np.where((ids >= 0) & ~hidden, rows, -1)


def widening_fetches(
    queries: int, entries: int, first_fetch: int, is_open: Callable[[np.ndarray], np.ndarray], factor: int = 2
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields which queries to search and how many entries to fetch, with more entries in each round.

    Args:
        queries: Number of queries; the first round has them all.
        entries: Number of entries searched; no round fetches more, and none follows one that fetched them all.
        first_fetch: Entries in the first round.
        is_open: Whether queries, by their rows, need more entries; called after each round.
        factor: By which each round fetches more than the one before.

    Yields:
        tuple[np.ndarray, int]: Rows of the queries, and the number of entries to fetch for each.
    """
    rows, fetch = np.arange(queries), min(first_fetch, entries)
    while len(rows):
        yield rows, fetch
        if fetch >= entries:
            return
        rows, fetch = rows[is_open(rows)], min(factor * fetch, entries)


def nearest_entries(memory: Memory, xq: np.ndarray, k: int, options: SearchOptions) -> Results:
    """Finds each query's k nearest entries, as the paper's released code does.

    Args:
        memory: Memory to search.
        xq: Unit queries of shape ``[nq, d]``.
        k: Number of entries per query.
        options: Initial fetch and excluded digests; the aggregation does not apply.

    Returns:
        Results: Similarities and labels, best first; a label can appear more than once. -inf and -1 where too few
        entries are found.
    """
    scores, labels = np.full((len(xq), k), -np.inf, np.float32), np.full((len(xq), k), -1, np.int64)
    exclusions = Exclusions.make(memory.rows_by_digest, options.exclude)
    first_fetch = max(options.initial_fetch, k)
    for queries, fetch in widening_fetches(len(xq), len(memory), first_fetch, lambda rows: labels[rows, -1] < 0):
        similarities, rows = _fetch(memory, xq, queries, fetch, exclusions)
        scores[queries], labels[queries] = keep_first(similarities, memory.label_at(rows), rows >= 0, k)
    return scores, labels


class FetchedBlock:
    """Scores of some queries' classes, found through the index.

    Args:
        memory: The memory.
        xq: Unit queries of shape ``[b, d]``.
        options: Initial fetch and aggregation.
        exclusions: Entries to ignore, by query of the block.
    """

    def __init__(self, memory: Memory, xq: np.ndarray, options: SearchOptions, exclusions: Exclusions):
        self.memory, self.xq, self.options, self.exclusions = memory, xq, options, exclusions

    def best(self, k: int) -> Results:
        """Returns scores and labels of each query's k best classes among those that the index finds, best first."""
        if self.options.aggregate == "mean" and self.options.top_m > 1:
            return self._best_means(k)
        scores, labels = np.full((len(self.xq), k), -np.inf, np.float32), np.full((len(self.xq), k), -1, np.int64)
        for queries, fetch in self._rounds(k, lambda rows: labels[rows, -1] < 0):
            similarities, rows = _fetch(self.memory, self.xq, queries, fetch, self.exclusions)
            found = self.memory.label_at(rows)
            scores[queries], labels[queries] = keep_first(similarities, found, mark_first(found), k)
        return scores, labels

    def _rounds(self, k: int, is_open: Callable[[np.ndarray], np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        return widening_fetches(len(self.xq), len(self.memory), max(self.options.initial_fetch, k), is_open)

    def _best_means(self, k: int) -> Results:
        """Scores every class that a search reaches by all its entries, until no other class can score higher.

        The best entry of a class that an exact search has not reached, and so its mean, is no better than the last
        entry fetched.
        """
        scores, labels = np.full((len(self.xq), k), -np.inf, np.float32), np.full((len(self.xq), k), -1, np.int64)
        bound = np.full(len(self.xq), -np.inf)
        for queries, fetch in self._rounds(k, lambda rows: scores[rows, -1] < bound[rows]):
            similarities, rows = _fetch(self.memory, self.xq, queries, fetch, self.exclusions)
            found = self.memory.label_at(rows)
            found[~mark_first(found)] = -1
            scores[queries], labels[queries] = best_first(self._score(found, queries), found, k)
            bound[queries] = similarities[:, -1]
        return scores, labels

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Returns the scores of given classes, in the shape of ``labels``, ``[b, m]``; -inf without entries."""
        return self._score(labels, np.arange(len(self.xq)))

    def _score(self, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """Scores classes of some queries."""
        scores = np.full(labels.shape, -np.inf, np.float32)
        classes = self.memory.layout.find(labels)
        rows, columns = np.nonzero(classes >= 0)
        scores[rows, columns] = score_pairs(
            self.memory, self.xq, queries[rows], classes[rows, columns], self.options, self.exclusions
        )
        return scores


class FetchingScorer:
    """Finds the best classes through the memory's index.

    Args:
        memory: The memory.
        options: Initial fetch, excluded digests and aggregation. The best classes are found by ``max`` or ``mean``
            alone; given classes are scored by ``prototype`` too.
    """

    block_size = _MOST_QUERIES

    def __init__(self, memory: Memory, options: SearchOptions):
        self.memory, self.options = memory, options
        self.exclusions = Exclusions.make(memory.rows_by_digest, options.exclude)

    def score(self, xq: np.ndarray, start: int) -> FetchedBlock:
        """Prepares a block of unit queries, ``[b, d]``, the first of which is number ``start`` of all."""
        return FetchedBlock(self.memory, xq, self.options, self.exclusions.of_block(start, len(xq)))
