"""Recall and speed of an approximate index compared with exact search."""

from __future__ import annotations

import time

import numpy as np

from data_prep.memory.memory import Memory


def recall_against_exact(memory: Memory, k: int, sample: int, seed: int = 0) -> dict[str, float]:
    """Compares an index with exact search; the queries are entries, each excluded from its own results.

    Args:
        memory: Memory to check.
        k: Number of neighbours.
        sample: Maximum number of entries to use as queries.
        seed: Random seed for sampling them.

    Returns:
        dict[str, float]: ``recall``, the share of the k nearest that the index finds (any of several equally near
        entries counts), and ``queries_per_s`` of the index and ``exact_queries_per_s``.
    """
    query_ids = np.random.default_rng(seed).permutation(memory.ids)[:sample]
    xq = memory.vectors(query_ids)
    start = time.perf_counter()
    scores, ids = memory.search(xq, k + 1)
    middle = time.perf_counter()
    exact_scores, exact_ids = memory.search(xq, k + 1, exact=True)
    end = time.perf_counter()
    hits = total = 0
    for query_id, row_ids, row_scores, exact_row_ids, exact_row_scores in zip(
        query_ids, ids, scores, exact_ids, exact_scores, strict=True
    ):
        expected = exact_row_scores[exact_row_ids != query_id][:k]
        actual = row_scores[(row_ids != query_id) & (row_ids >= 0)][:k]
        hits += int((actual >= expected[-1] - 1e-6).sum()) if len(expected) else 0
        total += len(expected)
    return {
        "recall": hits / max(total, 1),
        "queries_per_s": len(query_ids) / max(middle - start, 1e-9),
        "exact_queries_per_s": len(query_ids) / max(end - middle, 1e-9),
    }
