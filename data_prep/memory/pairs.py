"""Similarities of queries to a few classes each, from those classes' vectors alone."""

from __future__ import annotations

import numpy as np

from data_prep.memory.layout import Exclusions
from data_prep.memory.memory import Memory
from data_prep.memory.options import SearchOptions

_READ = 2**14  # vectors that are read at once


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Scales vectors to unit length; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def score_pairs(
    memory: Memory,
    xq: np.ndarray,
    queries: np.ndarray,
    classes: np.ndarray,
    options: SearchOptions,
    exclusions: Exclusions,
) -> np.ndarray:
    """Scores pairs of a query and a class.

    Args:
        memory: The classes' entries.
        xq: Unit queries of shape ``[nq, d]``.
        queries: Index of each pair's query, shape ``[p]``.
        classes: Index of each pair's class in ``memory.layout``, shape ``[p]``.
        options: Aggregation.
        exclusions: Entries to leave out, by index of the query.

    Returns:
        np.ndarray: float32, shape ``[p]``; -inf where every entry of the class is excluded.
    """
    ends = np.cumsum(memory.layout.counts[classes])
    scores = np.empty(len(classes), np.float32)
    start = 0
    while start < len(classes):  # at least one pair, and then as many as have _READ entries together
        read = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, read + _READ, side="right")))
        part = slice(start, stop)
        scores[part] = _score_part(memory, xq, queries[part], classes[part], options, exclusions)
        start = stop
    return scores


def _score_part(
    memory: Memory,
    xq: np.ndarray,
    queries: np.ndarray,
    classes: np.ndarray,
    options: SearchOptions,
    exclusions: Exclusions,
) -> np.ndarray:
    counts, rows = memory.layout.counts[classes], memory.layout.expand(classes)
    pairs = np.repeat(np.arange(len(classes)), counts)
    firsts = np.cumsum(counts) - counts
    vectors = memory.vectors(memory.ids[rows])
    hidden = exclusions.contains(queries[pairs], rows, len(memory))
    if options.aggregate == "prototype":
        vectors = np.where(hidden[:, None], 0, vectors.astype(np.float64))
        similarities = np.einsum("pd,pd->p", normalize(np.add.reduceat(vectors, firsts)), xq[queries])
        return np.where(np.add.reduceat(~hidden, firsts, dtype=np.int64) > 0, similarities, -np.inf)
    similarities = np.einsum("nd,nd->n", vectors, xq[queries[pairs]])
    similarities[hidden] = -np.inf
    if options.aggregate == "max":
        return np.maximum.reduceat(similarities, firsts)
    similarities = similarities[np.lexsort((-similarities, pairs))]
    averaged = (np.arange(len(rows)) - firsts[pairs] < options.top_m) & (similarities > -np.inf)
    totals = np.add.reduceat(np.where(averaged, similarities, 0), firsts)
    averages = np.add.reduceat(averaged, firsts, dtype=np.int64)
    return np.where(averages > 0, totals / np.maximum(averages, 1), -np.inf)
