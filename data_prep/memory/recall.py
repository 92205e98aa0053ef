"""Recall of an approximate index against exact search."""

from __future__ import annotations

import time

import numpy as np

from data_prep.memory.memory import Memory


def recall_against_exact(memory: Memory, k: int, sample: int, seed: int = 0) -> dict[str, float]:
    """Compares an index with exact search; the queries are entries, each left out of its own result.

    Args:
        memory: What to check.
        k: Neighbours.
        sample: Entries to ask for, at most.
        seed: Draws them.

    Returns:
        dict[str, float]: ``recall``, the share of the k nearest that the index finds (of equally near ones any counts),
        and ``queries_per_s`` of the index and ``exact_queries_per_s``.
    """
    chosen = np.random.default_rng(seed).permutation(memory.ids)[:sample]
    xq = memory.vectors(chosen)
    start = time.perf_counter()
    scores, ids = memory.search(xq, k + 1)
    middle = time.perf_counter()
    exact_scores, exact_ids = memory.search(xq, k + 1, exact=True)
    end = time.perf_counter()
    hits = total = 0
    for own, found, near, truth, nearest in zip(chosen, ids, scores, exact_ids, exact_scores, strict=True):
        wanted = nearest[truth != own][:k]
        got = near[(found != own) & (found >= 0)][:k]
        hits += int((got >= wanted[-1] - 1e-6).sum()) if len(wanted) else 0
        total += len(wanted)
    return {
        "recall": hits / max(total, 1),
        "queries_per_s": len(chosen) / max(middle - start, 1e-9),
        "exact_queries_per_s": len(chosen) / max(end - middle, 1e-9),
    }
