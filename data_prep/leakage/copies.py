"""Leak report: exact copies and near-duplicates of evaluated images in the memory and in training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from data_prep.core.records import Sample, SpecialLabel
from data_prep.memory.fetching import widening_fetches


@dataclass(frozen=True)
class Copy:
    """A query and an image, a copy of it, that must be neither in its memory nor in training.

    Attributes:
        query: Key of the query.
        key: Key of the other image.
        part: The part that the other image is in.
        similarity: Cosine similarity of their embeddings; 1 for a byte-identical copy.
        same_class: Whether both have the same label; if not, one of the labels is wrong. None if the other image's
            class is not known.
    """

    query: str
    key: str
    part: str
    similarity: float
    same_class: bool | None


def _make_copy(query: Sample, other: Sample, part: str, similarity: float) -> Copy:
    same = None if other.label == SpecialLabel.UNLABELLED else query.label == other.label
    return Copy(query.key, other.key, part, similarity, same)


def find_exact_copies(queries: Sequence[Sample], others: Sequence[Sample], part: str) -> list[Copy]:
    """Finds pairs of byte-identical images, ordered by query and then in the order of the others.

    Args:
        queries: The evaluated images.
        others: Images of a memory or of training.
        part: Name of the others' part, for the report.
    """
    by_digest: dict[str, list[Sample]] = defaultdict(list)
    for other in others:
        by_digest[other.digest].append(other)
    return [_make_copy(query, other, part, 1.0) for query in queries for other in by_digest.get(query.digest, ())]


def find_near_copies(
    queries: Sequence[Sample], xq: np.ndarray, others: Sequence[Sample], xb: np.ndarray, part: str, threshold: float
) -> list[Copy]:
    """Finds each query's most similar image that is not an exact copy, if it is similar enough to be a near-duplicate.

    Args:
        queries: The evaluated images.
        xq: Their unit embeddings, shape ``[nq, d]``.
        others: Images of a memory or of training.
        xb: Their unit embeddings, shape ``[nb, d]``.
        part: Name of the others' part, for the report.
        threshold: Minimum cosine similarity of a pair.

    Returns:
        list[Copy]: At most one per query, the most similar first.
    """
    if not len(queries) or not len(others):
        return []
    digests = np.array([other.digest for other in others])
    index = faiss.IndexFlatIP(xb.shape[1])
    index.add(np.ascontiguousarray(xb, np.float32))
    copies: list[Copy] = []
    is_crowded = np.zeros(len(queries), bool)  # all fetched neighbours are exact copies
    for rows, fetch in widening_fetches(len(queries), len(others), 4, is_crowded.__getitem__, 4):
        similarities, hits = index.search(np.ascontiguousarray(xq[rows], np.float32), fetch)
        for row, scores, ids in zip(rows, similarities, hits, strict=True):
            distinct = np.flatnonzero(digests[ids] != queries[row].digest)
            is_crowded[row] = not len(distinct)
            if len(distinct) and scores[distinct[0]] >= threshold:
                other, score = others[ids[distinct[0]]], float(min(scores[distinct[0]], 1.0))
                copies.append(_make_copy(queries[row], other, part, score))
    return sorted(copies, key=lambda copy: -copy.similarity)


def _summarize_part(images: int, exact: list[Copy], near: list[Copy], max_pairs: int) -> dict:
    """Returns the counts and pairs of ``compute_leak_report`` for one part."""
    copied = {copy.query for copy in exact}
    return {
        "images": images,
        "exact": len(copied),
        "near": len({copy.query for copy in near} - copied),
        "other_class": len({copy.query for copy in [*exact, *near] if copy.same_class is False}),
        "pairs": [
            {"query": c.query, "key": c.key, "similarity": round(c.similarity, 4), "same_class": c.same_class}
            for c in [*exact[:max_pairs], *near[:max_pairs]]
        ],
    }


Embedded = tuple[Sequence[Sample], np.ndarray]
"""Images and their unit embeddings, shape ``[n, d]``."""


def compute_leak_report(
    queries: Sequence[Sample],
    others: dict[str, Sequence[Sample]],
    embedded: dict[str, Embedded] | None = None,
    threshold: float = 0.98,
    max_pairs: int = 20,
) -> dict:
    """Counts the copies and near-duplicates of evaluated images in a memory and in training.

    Args:
        queries: The evaluated images.
        others: By part, the images that must not be copies of queries.
        embedded: The images searched for near-duplicates, by part, and those of the queries under ``queries``: all, or
            the ones that have embeddings. If it is None, only exact copies are searched for.
        threshold: Minimum cosine similarity of near-duplicates. Which value is right depends on the encoder: look at
            the pairs.
        max_pairs: Maximum number of pairs listed per kind and part.

    Returns:
        dict: ``queries``, ``clean`` (no exact copy in any part), ``near_from`` (``threshold``, or None if
        near-duplicates were not searched for), ``near_queries`` (for how many queries they were searched for) and
        ``parts``: each with the number of its ``images`` and of those ``embedded``; the number of queries that have an
        ``exact`` copy there, or otherwise a ``near`` one; of those with a copy of another class (``other_class``); and
        some ``pairs``.
    """
    embedded = embedded or {}
    embedded_queries, xq = embedded.get("queries", ((), np.empty((0, 1))))
    parts = {}
    for part, samples in others.items():
        exact = find_exact_copies(queries, samples, part)
        embedded_others, xb = embedded.get(part, ((), np.empty((0, 1))))
        near = find_near_copies(embedded_queries, xq, embedded_others, xb, part, threshold)
        summary = _summarize_part(len(samples), exact, near, max_pairs)
        parts[part] = {"images": summary.pop("images"), "embedded": len(embedded_others)} | summary
    return {
        "queries": len(queries),
        "clean": not any(part["exact"] for part in parts.values()),
        "near_from": threshold if embedded else None,
        "near_queries": len(embedded_queries),
        "parts": parts,
    }
