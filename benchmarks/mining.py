"""How fast ranking examples are mined, and how that grows with the number of images.

``python benchmarks/mining.py [--small]`` mines from 10^3, 10^4 and 10^5 images (``--small``: 10^3 and 10^4), the
embeddings given: retrieval with an exact index of as many vectors of the embedded encoder's size, copies searched for,
examples made and written into shards. Images are one small file, since their bytes are merely copied. So many
classes that each has ten images. All images are queries up to 10^4; of 10^5, ten thousand are. The last line is one
JSON object: by number of images, ``examples_per_s`` with copies searched for and without, ``queries_per_s``, and
``growth``, the time of a query at the largest number of images against that at the least.

On 2026-11-25, two x86_64 cores, ``python benchmarks/mining.py``: examples/s from 10^3, 10^4 and 10^5 images 1,362,
1,506 and 849 with copies searched for, 2,117, 1,675 and 1,087 without; ``growth`` 1.6.
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
from data_prep.mining.mine import mine
from data_prep.mining.shards import ShardedExamples
from data_prep.settings import MiningArgs, RetrieverArgs

DIMENSION = 96
MOST_QUERIES = 10_000
PER_CLASS = 10


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def world(images: int, picture: Path) -> tuple[Dataset, Memories, np.ndarray]:
    """Classes as clusters: an image is nearer to its class than to others, most of the time."""
    rng = np.random.default_rng(images)
    classes = max(images // PER_CLASS, 1)
    centres = unit(rng.normal(size=(classes, DIMENSION)))
    labels = np.arange(images) % classes
    vectors = unit(centres[labels] + 0.12 * rng.normal(size=(images, DIMENSION)))
    samples = [Sample(f"image{n}", str(picture), int(label), f"digest{n}") for n, label in enumerate(labels)]
    names = tuple(f"class {n}" for n in range(classes))
    held = Memory.build(vectors, [Entry(s.label, "image", s.key, s.digest) for s in samples], "none")
    named = Memory.build(centres, [Entry(n, "name", name) for n, name in enumerate(names)], "none")
    queries = np.linspace(0, images - 1, min(images, MOST_QUERIES)).astype(int)
    asked = [samples[n] for n in queries]
    return Dataset("clusters", names, {"train": asked}), Memories(held, named), vectors[queries]


def timed(dataset: Dataset, memories: Memories, args: MiningArgs, cache: Path) -> tuple[float, int]:
    """Seconds of mining and the number of examples."""
    encoder = SimpleNamespace(id="none")  # the embeddings are given
    start = time.perf_counter()
    folder = mine(encoder, dataset, "train", memories, True, RetrieverArgs(), args, cache)
    seconds = time.perf_counter() - start
    return seconds, len(ShardedExamples(folder))


def main(sizes: tuple[int, ...]) -> None:
    """Times the sizes and prints the figures."""
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as place:
        picture = Path(place) / "picture.png"
        Image.new("RGB", (32, 32), (90, 120, 40)).save(picture)
        for images in sizes:
            dataset, memories, xq = world(images, picture)
            data_prep.mining.mine.embed_images = lambda *_, xq=xq: xq
            row: dict[str, float] = {"queries": len(xq)}
            args = MiningArgs(sources=["image"], ground_truth="insert")
            for name, above in (("", args.copies_above), ("_without_copies", 1.1)):
                own = replace(args, near_duplicate_threshold=above)
                seconds, examples = timed(dataset, memories, own, Path(place) / f"{images}{name}")
                row[f"examples_per_s{name}"] = round(examples / seconds, 1)
                row[f"queries_per_s{name}"] = round(len(xq) / seconds, 1)
            found[str(images)] = row
            print(f"{images:7d} images: {row}", flush=True)
    first, last = found[str(sizes[0])], found[str(sizes[-1])]
    metrics = {
        "dimension": DIMENSION,
        "by_images": found,
        "growth": round(first["queries_per_s"] / last["queries_per_s"], 2),
        "device": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    main((1_000, 10_000) if "--small" in sys.argv[1:] else (1_000, 10_000, 100_000))
