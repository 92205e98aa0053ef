"""Top-1 hits of four images under two seeds, whose metrics can be computed by hand."""

from __future__ import annotations

import numpy as np

CLASSES = np.array([0, 0, 1, 1])
# Top-1 hits of four images by seed.
HITS = {
    "clip_knn": {1: [1, 0, 0, 0], 2: [0, 0, 0, 0]},
    "clip_zero_shot": {1: [1, 1, 0, 0], 2: [1, 1, 0, 0]},
    "rar_untuned": {1: [1, 0, 1, 0], 2: [1, 0, 0, 0]},
    "rar": {1: [1, 1, 1, 1], 2: [1, 1, 1, 0]},
}


def row(method: str, seed: int, top1: float) -> dict:
    head = {"task": "few_shot", "dataset": "armory", "shots": 4, "seed": seed, "method": method, "mode": "", "k": 5}
    return head | {"n": 4, "top1": top1, "top5": 1.0, "recall_at_k": 1.0}


def rows_by_hand() -> list[dict]:
    return [
        row(method, seed, float(np.mean(hits))) for method, by_seed in HITS.items() for seed, hits in by_seed.items()
    ]


def hits_by_hand() -> dict:
    return {
        ("few_shot", 4, seed, method): np.array(values, float)
        for method, by_seed in HITS.items()
        for seed, values in by_seed.items()
    }
