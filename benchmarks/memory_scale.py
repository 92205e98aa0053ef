"""Benchmarks cost and recall of each kind of index, from a thousand entries to a million.

``python benchmarks/memory_scale.py [--most 1000000] [--limit 100] [--small]`` builds flat, HNSW and IVF indexes of
unit vectors of 512 dimensions with the default settings. The vectors are scattered around class centres, ten per class,
as image embeddings are; the queries are further vectors of the same classes. It measures the seconds to build, the
memory, the queries per second, recall@5 (the share of the five nearest that is found), and the milliseconds to add and
to remove a class of ten. A build that would take longer than ``--limit`` seconds, extrapolated from the previous size,
is skipped and reported as skipped. ``--small`` ends at 10,000.

The default rule (``FLAT_MOST`` in ``data_prep/memory/index.py``) follows from it: exact search as long as it answers
200 queries a second, and above that the fastest approximate kind among those with a recall@5 of at least 95 %.
The last line is one JSON object with all results, and what the rule gives as ``flat_most`` and ``above``.

On 2026-11-27, two x86_64 cores, ``python benchmarks/memory_scale.py --limit 1000``, other tests running while the last
two were built::

    kind   entries  build s  memory MB  queries/s  recall@5   add ms  remove ms
    flat       1000     0.07        5.8      27869     1.000      2.3        0.3
    hnsw       1000     0.17        2.9       8760     1.000      4.7        0.6
    ivf        1000     0.02        8.1      18251     1.000      0.7        0.1
    flat      10000     0.02       20.9       2718     1.000     16.3        1.2
    hnsw      10000     2.07       23.7       3744     1.000     23.2        0.2
    ivf       10000     0.99       47.3      10648     1.000      0.9        0.1
    flat     100000     0.47      211.9        454     1.000      0.9        5.7
    hnsw     100000    57.41      256.6       1278     1.000     12.2        0.2
    ivf      100000    42.07      275.9       2815     1.000      1.5        0.2
    flat    1000000     3.64     2099.7         44     1.000      2.7       48.4
    hnsw    1000000  1035.60     2383.6        778     0.952     21.1        0.1
    ivf     1000000   816.61     2917.3        579     0.865     24.0        0.2

Exact search takes time in proportion to the entries: 454 queries a second at 100,000, 44 at a million, so 200 at
about a quarter of a million, which is ``FLAT_MOST``; on another machine of two cores (2026-11-25) it was 1,051 and 123,
which gives half a million. Above it, a graph: at a million HNSW has a recall@5 of 95 % and answers more queries per
second than IVF, whose recall@5 is 86 % with the default ``nprobe``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import time
from pathlib import Path

import faiss
import numpy as np

from data_prep.memory.index import KINDS, VectorIndex
from data_prep.settings import RetrieverArgs

DIMENSION = 512
PER_CLASS = 10
SPREAD = 0.7  # ratio of the noise's length to the centre's: two images of a class have a cosine of about 0.67
QUERIES = 500
K = 5
MIN_QUERIES_PER_S = 200
MIN_RECALL = 0.95


def sample_vectors(count: int, rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    """Samples unit vectors around the centres, cycling through the centres."""
    vectors = np.empty((count, DIMENSION), np.float32)
    for start in range(0, count, 50_000):
        rows = np.arange(start, min(start + 50_000, count))
        noise = rng.standard_normal((len(rows), DIMENSION), np.float32) * (SPREAD / DIMENSION**0.5)
        block = centres[rows % len(centres)] + noise
        vectors[rows] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def resident_mb() -> float:
    """Returns the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def time_call(action) -> tuple[float, object]:
    """Calls a function, and returns the seconds that it took and its result."""
    start = time.perf_counter()
    value = action()
    return time.perf_counter() - start, value


def measure(kind: str, vectors: np.ndarray, new: np.ndarray, xq: np.ndarray, nearest: np.ndarray) -> dict:
    """Measures one kind of index at one size."""
    ids = np.arange(len(vectors))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident_mb()
    build_s, index = time_call(lambda: VectorIndex.build(ids, vectors, RetrieverArgs(index=kind)))
    memory_mb = resident_mb() - before
    search_s, (_, results) = time_call(lambda: index.search(xq, K, False))
    new_ids = np.arange(len(vectors), len(vectors) + len(new))
    add_s, _ = time_call(lambda: index.add(new_ids, new, np.concatenate([ids, new_ids])))
    remove_s, _ = time_call(lambda: index.remove(new_ids, ids))
    recall = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(results, nearest, strict=True)])
    return {
        "kind": kind,
        "entries": len(vectors),
        "build_s": round(build_s, 3),
        "memory_mb": round(memory_mb, 1),
        "queries_per_s": round(len(xq) / search_s, 1),
        "recall_at_5": round(float(recall), 4),
        "add_ms": round(1000 * add_s, 2),
        "remove_ms": round(1000 * remove_s, 2),
    }


def derive_rule(rows: list[dict]) -> dict:
    """Derives the default rule from the measurements."""
    fast = [r["entries"] for r in rows if r["kind"] == "flat" and r["queries_per_s"] >= MIN_QUERIES_PER_S]
    largest = max(r["entries"] for r in rows if r["kind"] != "flat")
    good = [r for r in rows if r["kind"] != "flat" and r["entries"] == largest and r["recall_at_5"] >= MIN_RECALL]
    above = max(good, key=lambda r: r["queries_per_s"])["kind"] if good else "flat"
    return {"flat_most": max(fast, default=0), "above": above}


def main(most: int, limit: float) -> None:
    """Measures all kinds and sizes, and prints the table."""
    rows: list[dict] = []
    skipped: list[dict] = []
    print("kind   entries  build s  memory MB  queries/s  recall@5   add ms  remove ms")
    size = 1000
    while size <= most:
        rng = np.random.default_rng(0)
        centres = sample_vectors(size // PER_CLASS, rng, np.zeros((1, DIMENSION), np.float32))
        vectors = sample_vectors(size, rng, centres)
        xq = sample_vectors(min(QUERIES, size), rng, centres[rng.permutation(len(centres))])
        new = sample_vectors(PER_CLASS, rng, xq[:1])
        exact = faiss.IndexFlatIP(DIMENSION)
        exact.add(vectors)
        nearest = exact.search(xq, K)[1]
        del exact
        for kind in KINDS:
            previous = next((row for row in reversed(rows) if row["kind"] == kind), None)
            expected_s = previous["build_s"] * (size / previous["entries"]) * 1.3 if previous else 0
            if expected_s > limit:
                skipped.append({"kind": kind, "entries": size, "expected_build_s": round(expected_s)})
                print(f"{kind:5s} {size:9d}  skipped: its build would take about {expected_s:.0f} s")
                continue
            row = measure(kind, vectors, new, xq, nearest)
            rows.append(row)
            print(
                f"{kind:5s} {size:9d} {row['build_s']:8.2f} {row['memory_mb']:10.1f} {row['queries_per_s']:10.0f} "
                f"{row['recall_at_5']:9.3f} {row['add_ms']:8.1f} {row['remove_ms']:10.1f}",
                flush=True,
            )
        size *= 10
    machine = {"device": platform.machine(), "threads": faiss.omp_get_max_threads(), "dimension": DIMENSION}
    print(json.dumps(machine | derive_rule(rows) | {"rows": rows, "left_out": skipped}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--limit", type=float, default=100)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    main(10_000 if args.small else args.most, args.limit)
