"""Measures fused retrieval, exact over all classes, compared with the same computation on dense NumPy matrices.

``python benchmarks/retrieval.py [--small]`` retrieves the 50 best of 1,000 and of 10,000 classes for 5,000 queries of
512 dimensions (``--small``: 500 queries, 1,000 classes). Each class has 16 images and a name, in memories with exact
indexes. The reference holds the similarities of a block of queries to all images and names in NumPy, takes the best
image of each class, selects the classes that are among the 64 best by image or by name, standardises, mixes and sorts;
both must find the same classes. They alternate for three rounds, of which the fastest counts. The last line is one
JSON object: by number of classes, queries/s of ``Memories.search`` and of the reference, and their ``ratio_to_dense``.

2026-11-28, two CPU cores, queries/s: 6,695 and 6,118 with 1,000 classes (1.09), 769 and 646 with 10,000 (1.19); on
another machine of two cores 5,150 and 4,778 (1.08), 1,543 and 802 (1.92).
"""

from __future__ import annotations

import json
import platform
import sys
import time

import numpy as np
import torch

from data_prep.memory.memories import Memories
from data_prep.memory.memory import Entry, Memory
from data_prep.settings import RetrieverArgs

DIMENSION = 512
IMAGES_PER_CLASS = 16
K = 50
ROUNDS = 3
BLOCK = 256  # queries of the reference; it is slower with larger blocks


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_clusters(classes: int, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes clustered classes: vectors of images, class by class; of names; and of queries."""
    rng = np.random.default_rng(0)
    names = unit(rng.standard_normal((classes, DIMENSION), dtype=np.float32))
    noise = rng.standard_normal((classes * IMAGES_PER_CLASS, DIMENSION), dtype=np.float32) / DIMENSION**0.5
    images = unit(np.repeat(names, IMAGES_PER_CLASS, axis=0) + noise)
    noise = rng.standard_normal((queries, DIMENSION), dtype=np.float32) / DIMENSION**0.5
    return images, names, unit(names[rng.integers(0, classes, queries)] + noise)


def standardise(scores: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Scales each row's selected scores to zero mean and unit standard deviation."""
    mean = scores.mean(1, where=selected, keepdims=True)
    return (scores - mean) / scores.std(1, where=selected, keepdims=True)


def search_dense(images: np.ndarray, names: np.ndarray, xq: np.ndarray, args: RetrieverArgs) -> np.ndarray:
    """Retrieves the labels of the k best classes of each query with dense matrices, ``[nq, k]``."""
    found = []
    for start in range(0, len(xq), BLOCK):
        block = xq[start : start + BLOCK]
        by_image = (images @ block.T).reshape(len(names), IMAGES_PER_CLASS, -1).max(1).T  # faster than rows of queries
        by_name = block @ names.T
        selected = np.zeros(by_image.shape, bool)
        for scores in (by_image, by_name):
            best = np.argpartition(-scores, args.initial_fetch, axis=1)[:, : args.initial_fetch]
            np.put_along_axis(selected, best, True, 1)
        fused = (1 - args.text_weight) * standardise(by_image, selected)
        fused += args.text_weight * standardise(by_name, selected)
        fused[~selected] = -np.inf
        best = np.argpartition(-fused, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(fused, best, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, 1))
    return np.concatenate(found)


def measure(classes: int, queries: int) -> dict[str, float]:
    """Times both, alternating, and checks that they find the same."""
    images, names, xq = make_clusters(classes, queries)
    args = RetrieverArgs(index="flat")
    image_entries = [Entry(n // IMAGES_PER_CLASS, "image", str(n)) for n in range(len(images))]
    memories = Memories(
        Memory.build(images, image_entries, "none", args),
        Memory.build(names, [Entry(n, "name", str(n)) for n in range(classes)], "none", args),
    )
    searches = {
        "search": lambda: memories.search("fused", xq, K, args)[1],
        "dense": lambda: search_dense(images, names, xq, args),
    }
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(ROUNDS):
        labels = {}
        for name, search in searches.items():
            start = time.perf_counter()
            labels[name] = search()
            seconds[name].append(time.perf_counter() - start)
    same = float((labels["search"] == labels["dense"]).mean())
    assert same > 0.999, f"only {same:.4f} of the classes are the same"  # near-ties may differ by rounding
    speeds = {name: queries / min(times) for name, times in seconds.items()}
    return {
        "queries_per_s": round(speeds["search"]),
        "dense_queries_per_s": round(speeds["dense"]),
        "ratio_to_dense": round(speeds["search"] / speeds["dense"], 2),
    }


def main(sizes: tuple[int, ...], queries: int) -> None:
    """Measures each number of classes and prints the results."""
    results = {}
    for classes in sizes:
        results[str(classes)] = measure(classes, queries)
        print(f"{classes:6d} classes: {results[str(classes)]}", flush=True)
    metrics = {
        "by_classes": results,
        "ratio_to_dense": {classes: row["ratio_to_dense"] for classes, row in results.items()},
        "queries": queries,
        "dimension": DIMENSION,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    if "--small" in sys.argv[1:]:
        main((1_000,), 500)
    else:
        main((1_000, 10_000), 5_000)
