"""From a query's embedding to its candidates: the k best distinct classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from data_prep.memory import Memory
from data_prep.records import Candidate


def nearest_classes(
    memory: Memory, xq: np.ndarray, k: int, pool: int, exclude: Sequence[str] | None = None
) -> list[dict[int, float]]:
    """Finds each query's k best distinct classes, scored by their best entry.

    Args:
        memory: What to search.
        xq: Unit queries of shape ``[nq, d]``.
        k: Distinct classes; fewer come back where the memory holds fewer.
        pool: Entries to fetch at first. Queries that it leaves short fetch twice as many, and so on.
        exclude: A content digest per query; entries of that content do not count. This is how
            a query is left out of its own memory, and its byte-identical copies with it.

    Returns:
        list[dict[int, float]]: Per query, label to similarity, best first.
    """
    found: list[dict[int, float]] = [{} for _ in xq]
    open_rows = np.arange(len(xq))
    fetch = max(pool, k)
    while len(open_rows):
        similarities, ids = memory.search(xq[open_rows], fetch)
        for row, scores, hits in zip(open_rows, similarities, ids, strict=True):
            best: dict[int, float] = {}
            for score, hit in zip(scores, hits, strict=True):
                entry = memory.entries[hit]
                if len(best) < k and not (exclude and entry.digest and entry.digest == exclude[row]):
                    best.setdefault(entry.label, float(score))
            found[row] = best
        if fetch >= len(memory.entries):
            break
        open_rows = np.array([row for row in open_rows if len(found[row]) < k], int)
        fetch *= 2
    return found


def _standardised(scores: dict[int, float]) -> dict[int, float]:
    values = np.array(list(scores.values()) or [0.0])
    scale = values.std() or 1.0
    return {label: (value - values.mean()) / scale for label, value in scores.items()}


def _completed(memory: Memory, query: np.ndarray, scores: dict[int, float], labels: set[int], ids: dict) -> dict:
    """Adds the best similarity of classes that the search did not reach."""
    missing = [label for label in labels - scores.keys() if label in ids]
    return scores | {label: float((memory.vectors(ids[label]) @ query).max()) for label in missing}


def fused_classes(
    images: Memory,
    names: Memory,
    xq: np.ndarray,
    k: int,
    pool: int,
    weight: float,
    exclude: Sequence[str] | None = None,
) -> list[dict[int, float]]:
    """Finds each query's k best classes by images and names together.

    Image-to-image and image-to-name similarities live on different scales, so each is
    standardised over the query's pooled classes before they are mixed.

    Args:
        images: Memory of images.
        names: Memory of names.
        xq: Unit queries of shape ``[nq, d]``.
        k: Distinct classes.
        pool: Classes to take from each memory before mixing, at least.
        weight: Of the name's score, 0 to 1.
        exclude: As in ``nearest_classes``; concerns images.

    Returns:
        list[dict[int, float]]: Per query, label to fused score, best first.
    """
    by_label: dict[int, list[int]] = defaultdict(list)
    for i, entry in enumerate(images.entries):
        by_label[entry.label].append(i)
    name_ids = {entry.label: [i] for i, entry in enumerate(names.entries)}
    by_image = nearest_classes(images, xq, max(pool, k), 4 * pool, exclude)
    by_name = nearest_classes(names, xq, max(pool, k), pool)
    fused = []
    for row, (image_scores, name_scores) in enumerate(zip(by_image, by_name, strict=True)):
        labels = image_scores.keys() | name_scores.keys()
        own = {
            label: [i for i in ids if not (exclude and images.entries[i].digest == exclude[row])]
            for label, ids in ((label, by_label[label]) for label in labels)
        }
        own = {label: ids for label, ids in own.items() if ids}
        image_all = _standardised(_completed(images, xq[row], image_scores, labels, own))
        name_all = _standardised(_completed(names, xq[row], name_scores, labels, name_ids))
        lowest = min(image_all.values(), default=0.0), min(name_all.values(), default=0.0)
        mixed = {
            label: (1 - weight) * image_all.get(label, lowest[0]) + weight * name_all.get(label, lowest[1])
            for label in sorted(labels)
        }
        best = sorted(mixed, key=lambda label: -mixed[label])[:k]
        fused.append({label: mixed[label] for label in best})
    return fused


def to_candidates(scores: dict[int, float], names: Sequence[str]) -> tuple[Candidate, ...]:
    """Puts class names to scored labels."""
    return tuple(Candidate(label, names[label], score) for label, score in scores.items())
