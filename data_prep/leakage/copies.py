"""Leaks between parts of a data set: pictures that are the same by content, and pictures that look the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from data_prep.core.records import Sample


@dataclass(frozen=True)
class Copy:
    """A query and a picture that it must not have been compared with or trained on.

    Attributes:
        query: Key of the query.
        key: Key of the other picture.
        part: Where the other picture stands.
        similarity: Cosine of their embeddings; 1 for a byte-identical copy.
        same_class: Whether both have the same label; where not, one of the labels is wrong. None where the other's
            class is not known.
    """

    query: str
    key: str
    part: str
    similarity: float
    same_class: bool | None


UNLABELLED = -1
"""Label of a picture of which only the content is known."""


def _copy(query: Sample, other: Sample, part: str, similarity: float) -> Copy:
    same = None if other.label == UNLABELLED else query.label == other.label
    return Copy(query.key, other.key, part, similarity, same)


def exact_copies(queries: Sequence[Sample], others: Sequence[Sample], part: str) -> list[Copy]:
    """Pairs of byte-identical pictures, by query and then in the order of the others.

    Args:
        queries: The evaluated pictures.
        others: Pictures of a memory or of training.
        part: The others' part, for the report.
    """
    by_digest: dict[str, list[Sample]] = defaultdict(list)
    for other in others:
        by_digest[other.digest].append(other)
    return [_copy(query, other, part, 1.0) for query in queries for other in by_digest.get(query.digest, ())]


def near_copies(
    queries: Sequence[Sample], xq: np.ndarray, others: Sequence[Sample], xb: np.ndarray, part: str, least: float
) -> list[Copy]:
    """Each query's most similar picture that is no exact copy, where it is similar enough to show the same.

    Args:
        queries: The evaluated pictures.
        xq: Their unit embeddings, shape ``[nq, d]``.
        others: Pictures of a memory or of training.
        xb: Their unit embeddings, shape ``[nb, d]``.
        part: The others' part, for the report.
        least: Cosine from which a pair counts.

    Returns:
        list[Copy]: At most one a query, the most similar first.
    """
    if not len(queries) or not len(others):
        return []
    digests = np.array([other.digest for other in others])
    index = faiss.IndexFlatIP(xb.shape[1])
    index.add(np.ascontiguousarray(xb, np.float32))
    found: list[Copy] = []
    rows, fetch = np.arange(len(queries)), min(4, len(others))
    while len(rows):
        similarities, hits = index.search(np.ascontiguousarray(xq[rows], np.float32), fetch)
        crowded = []  # queries whose nearest are all exact copies
        for row, scores, ids in zip(rows, similarities, hits, strict=True):
            distinct = np.flatnonzero(digests[ids] != queries[row].digest)
            if not len(distinct):
                crowded.append(row)
            elif scores[distinct[0]] >= least:
                other, score = others[ids[distinct[0]]], float(min(scores[distinct[0]], 1.0))
                found.append(_copy(queries[row], other, part, score))
        if fetch == len(others):
            break
        rows, fetch = np.array(crowded, int), min(4 * fetch, len(others))
    return sorted(found, key=lambda copy: -copy.similarity)


def _of_part(images: int, exact: list[Copy], near: list[Copy], shown: int) -> dict:
    copied = {copy.query for copy in exact}
    return {
        "images": images,
        "exact": len(copied),
        "near": len({copy.query for copy in near} - copied),
        "other_class": len({copy.query for copy in [*exact, *near] if copy.same_class is False}),
        "pairs": [
            {"query": c.query, "key": c.key, "similarity": round(c.similarity, 4), "same_class": c.same_class}
            for c in [*exact[:shown], *near[:shown]]
        ],
    }


Embedded = tuple[Sequence[Sample], np.ndarray]
"""Pictures and their unit embeddings, shape ``[n, d]``."""


def leak_report(
    queries: Sequence[Sample],
    others: dict[str, Sequence[Sample]],
    embedded: dict[str, Embedded] | None = None,
    least: float = 0.98,
    shown: int = 20,
) -> dict:
    """What of a memory and of training stands among the evaluated pictures.

    Args:
        queries: The evaluated pictures.
        others: By part, what they must not be in.
        embedded: Among which pictures near copies are sought, by part, and of the queries under ``queries``: all, or
            those that there are embeddings of. Without, only exact copies are sought.
        least: Cosine from which two pictures count as near-duplicates. What is near depends on the encoder: look at
            the pairs.
        shown: Pairs to list of each kind and part.

    Returns:
        dict: ``queries``, ``clean`` (no exact copy in any part), ``near_from`` (``least``, or None where near copies
        were not sought), ``near_queries`` (of how many queries they were sought) and ``parts``: each with its
        ``images`` and how many of them were ``embedded``; the queries that have an ``exact`` copy there, else a
        ``near`` one; those with a copy of another class (``other_class``); and some ``pairs``.
    """
    embedded = embedded or {}
    asked, xq = embedded.get("queries", ((), np.empty((0, 1))))
    parts = {}
    for part, samples in others.items():
        exact = exact_copies(queries, samples, part)
        own, xb = embedded.get(part, ((), np.empty((0, 1))))
        near = near_copies(asked, xq, own, xb, part, least)
        found = _of_part(len(samples), exact, near, shown)
        parts[part] = {"images": found.pop("images"), "embedded": len(own)} | found
    clean = not any(found["exact"] for found in parts.values())
    near_from = least if embedded else None
    head = {"queries": len(queries), "clean": clean, "near_from": near_from, "near_queries": len(asked)}
    return head | {"parts": parts}
