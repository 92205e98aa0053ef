"""Measures the speed of mining ranking examples, and how it depends on the number of images.

``python benchmarks/mining.py [--small]`` mines from 10^3, 10^4 and 10^5 images (``--small``: 10^3 and 10^4) with given
embeddings: it retrieves with an exact index of that many vectors of the embedded encoder's dimension, searches for
copies, builds the examples and writes them into shards. All images are the same small file, since their bytes are only
copied. Each class has ten images. Up to 10^4 images, all are queries; of 10^5, ten thousand are. The last line is one
JSON object: by number of images, ``examples_per_s`` with and without the search for copies, ``queries_per_s``, and
``growth``, the time per query at the largest number of images divided by that at the smallest.

On 2026-11-25, two x86_64 cores, ``python benchmarks/mining.py``: examples/s from 10^3, 10^4 and 10^5 images 1,362,
1,506 and 849 with the search for copies, 2,117, 1,675 and 1,087 without; ``growth`` 1.6.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

import data_prep.mining.mine
from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.memory.memories import Memories
from data_prep.memory.memory import Entry, Memory
from data_prep.mining.mine import CandidatePool, mine
from data_prep.mining.shards import ShardedExamples
from data_prep.settings import MiningArgs, RetrieverArgs

DIMENSION = 96
MAX_QUERIES = 10_000
PER_CLASS = 10


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_clusters(images: int, image_file: Path) -> tuple[Dataset, Memories, np.ndarray]:
    """Makes clustered classes, most images nearest to their own class: queries, memories and query vectors."""
    rng = np.random.default_rng(images)
    classes = max(images // PER_CLASS, 1)
    centres = unit(rng.normal(size=(classes, DIMENSION)))
    labels = np.arange(images) % classes
    vectors = unit(centres[labels] + 0.12 * rng.normal(size=(images, DIMENSION)))
    samples = [Sample(f"image{n}", str(image_file), int(label), f"digest{n}") for n, label in enumerate(labels)]
    names = tuple(f"class {n}" for n in range(classes))
    image_memory = Memory.build(vectors, [Entry(s.label, "image", s.key, s.digest) for s in samples], "none")
    name_memory = Memory.build(centres, [Entry(n, "name", name) for n, name in enumerate(names)], "none")
    rows = np.linspace(0, images - 1, min(images, MAX_QUERIES)).astype(int)
    queries = [samples[row] for row in rows]
    return Dataset("clusters", names, {"train": queries}), Memories(image_memory, name_memory), vectors[rows]


def time_mining(dataset: Dataset, memories: Memories, args: MiningArgs, cache: Path) -> tuple[float, int]:
    """Returns the seconds that mining takes and the number of examples."""
    encoder = SimpleNamespace(id="none")  # the embeddings are given
    start = time.perf_counter()
    folder = mine(encoder, dataset, "train", CandidatePool(memories, True), RetrieverArgs(), args, cache)
    seconds = time.perf_counter() - start
    return seconds, len(ShardedExamples(folder))


def main(sizes: tuple[int, ...]) -> None:
    """Measures each number of images and prints the results."""
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        image_file = Path(folder) / "image.png"
        Image.new("RGB", (32, 32), (90, 120, 40)).save(image_file)
        for images in sizes:
            dataset, memories, xq = make_clusters(images, image_file)
            data_prep.mining.mine.embed_images = lambda *_, xq=xq: xq
            row: dict[str, float] = {"queries": len(xq)}
            args = MiningArgs(sources=["image"], ground_truth="insert")
            for name, threshold in (("", args.near_duplicate_threshold), ("_without_copies", 1.1)):
                threshold_args = replace(args, near_duplicate_threshold=threshold)
                cache = Path(folder) / f"{images}{name}"
                seconds, examples = time_mining(dataset, memories, threshold_args, cache)
                row[f"examples_per_s{name}"] = round(examples / seconds, 1)
                row[f"queries_per_s{name}"] = round(len(xq) / seconds, 1)
            results[str(images)] = row
            print(f"{images:7d} images: {row}", flush=True)
    first, last = results[str(sizes[0])], results[str(sizes[-1])]
    metrics = {
        "dimension": DIMENSION,
        "by_images": results,
        "growth": round(first["queries_per_s"] / last["queries_per_s"], 2),
        "device": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    main((1_000, 10_000) if "--small" in sys.argv[1:] else (1_000, 10_000, 100_000))
