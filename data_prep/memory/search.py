"""Retrieval: finds a query's k best distinct classes, or its k nearest entries, by embedding similarity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_prep.core.records import Candidate
from data_prep.memory.memory import Memory

_BLOCK = 1024  # queries that are compared with all prototypes at once
_EQUAL = 1e-6  # scores with a smaller standard deviation are equal except for rounding


@dataclass(frozen=True)
class SearchOptions:
    """How a memory is searched and classes are scored.

    Attributes:
        initial_fetch: Entries to fetch at first. Queries for which that gives too few results fetch twice as many, and
            so on, up to the complete memory.
        exclude: A content digest per query; entries with that digest are ignored. This excludes a query, and its
            byte-identical copies, from its own results.
        aggregate: A class's score: its best entry's (``max``), the ``mean`` of its ``top_m`` best, or that of its
            ``prototype``.
        top_m: Number of entries that ``mean`` averages.
    """

    initial_fetch: int
    exclude: Sequence[str] | None = None
    aggregate: str = "max"
    top_m: int = 1

    def excluded(self, row: int) -> str:
        """Returns the digest that a query excludes; empty where it excludes none."""
        return self.exclude[row] if self.exclude else ""


def _search_rows(
    memory: Memory, xq: np.ndarray, fetch: int, rows: np.ndarray, exclude: Sequence[str] | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray, float]]:
    """Searches for some queries.

    Yields:
        tuple: A query's row; its entries (as rows of the memory) that are not excluded, and their scores, best first;
        and the score of the last entry fetched.
    """
    similarities, ids = memory.search(xq[rows], fetch)
    entry_rows = memory.rows(ids)
    for row, scores, found_ids, hits in zip(rows, similarities, ids, entry_rows, strict=True):
        valid = found_ids >= 0  # an approximate index may find fewer
        if exclude:
            digests = [memory.entries[hit].digest if ok else "" for hit, ok in zip(hits, valid, strict=True)]
            valid &= np.array([not digest or digest != exclude[row] for digest in digests], bool)
        yield row, hits[valid], scores[valid], (scores[-1] if len(scores) else -np.inf)


def nearest_entries(memory: Memory, xq: np.ndarray, k: int, options: SearchOptions) -> list[list[tuple[int, float]]]:
    """Finds each query's k nearest entries, as the paper's released code does.

    Args:
        memory: Memory to search.
        xq: Unit queries of shape ``[nq, d]``.
        k: Number of entries.
        options: Initial fetch and excluded digests; the aggregation does not apply.

    Returns:
        list[list[tuple[int, float]]]: Per query, label and similarity, best first; a label can appear more than once.
    """
    results: list[list[tuple[int, float]]] = [[] for _ in xq]
    initial_fetch = max(options.initial_fetch, k)
    for rows, fetch in _widening_rounds(memory, len(xq), initial_fetch, lambda row: len(results[row]) < k):
        for row, hits, scores, _ in _search_rows(memory, xq, fetch, rows, options.exclude):
            results[row] = list(zip(memory.labels[hits[:k]].tolist(), scores[:k].tolist(), strict=True))
    return results


def _widening_rounds(
    memory: Memory, queries: int, fetch: int, is_unfinished: Callable[[int], bool]
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields search rounds: all queries first, then the unfinished ones with twice the fetch, up to the full memory."""
    rows = np.arange(queries)
    while len(rows):
        yield rows, fetch
        if fetch >= len(memory.entries):
            return
        rows = np.array([row for row in rows if is_unfinished(row)], int)
        fetch *= 2


def nearest_classes(memory: Memory, xq: np.ndarray, k: int, options: SearchOptions) -> list[dict[int, float]]:
    """Finds each query's k best distinct classes.

    Args:
        memory: Memory to search.
        xq: Unit queries of shape ``[nq, d]``.
        k: Number of distinct classes; fewer are returned where the memory holds fewer.
        options: Initial fetch, excluded digests and aggregation.

    Returns:
        list[dict[int, float]]: Per query, label to similarity, best first.
    """
    if options.aggregate == "prototype":
        return _search_by_prototype(memory, xq, k, options)
    if options.aggregate == "mean" and options.top_m > 1:
        return _search_by_mean(memory, xq, k, options)
    results: list[dict[int, float]] = [{} for _ in xq]
    initial_fetch = max(options.initial_fetch, k)
    for rows, fetch in _widening_rounds(memory, len(xq), initial_fetch, lambda row: len(results[row]) < k):
        for row, hits, scores, _ in _search_rows(memory, xq, fetch, rows, options.exclude):
            best: dict[int, float] = {}
            for label, score in zip(memory.labels[hits].tolist(), scores.tolist(), strict=True):
                if len(best) == k:
                    break
                best.setdefault(label, score)
            results[row] = best
    return results


def class_score(vectors: np.ndarray, query: np.ndarray, aggregate: str, top_m: int) -> float:
    """Returns a class's similarity to a query.

    Args:
        vectors: The unit vectors of its entries, shape ``[m, d]`` with ``m`` at least 1.
        query: Unit vector, shape ``[d]``.
        aggregate: As in ``SearchOptions``.
        top_m: As in ``SearchOptions``.
    """
    if aggregate == "prototype":
        return float(_normalize(vectors.mean(0)) @ query)
    similarities = vectors @ query
    if aggregate == "mean":
        return float(np.sort(similarities)[-top_m:].mean())
    return float(similarities.max())


def _normalize(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _class_ids(memory: Memory, label: int, excluded: str) -> np.ndarray:
    """Returns the ids of a class's entries, without those that have the excluded digest."""
    ids = memory.ids_of(label)
    if not excluded:
        return ids
    return ids[np.array([memory.entries[row].digest != excluded for row in memory.rows(ids)], bool)]


def _search_by_mean(memory: Memory, xq: np.ndarray, k: int, options: SearchOptions) -> list[dict[int, float]]:
    """Scores every class that a search reaches by all its entries, until no other class can score higher.

    The best entry of a class that the search has not reached, and so its mean, is below the last entry fetched.
    """
    results: list[dict[int, float]] = [{} for _ in xq]
    bound = np.full(len(xq), -np.inf)

    def is_unfinished(row: int) -> bool:
        return len(results[row]) < k or min(results[row].values()) < bound[row]

    for rows, fetch in _widening_rounds(memory, len(xq), max(options.initial_fetch, k), is_unfinished):
        for row, hits, _, last_score in _search_rows(memory, xq, fetch, rows, options.exclude):
            bound[row] = last_score
            excluded = options.excluded(row)
            scores = {
                label: class_score(memory.vectors(_class_ids(memory, label, excluded)), xq[row], "mean", options.top_m)
                for label in dict.fromkeys(memory.labels[hits].tolist())
            }
            results[row] = _top_k(scores, k)
    return results


def _top_k(scores: dict[int, float], k: int) -> dict[int, float]:
    return {label: scores[label] for label in sorted(scores, key=lambda label: -scores[label])[:k]}


def _search_by_prototype(memory: Memory, xq: np.ndarray, k: int, options: SearchOptions) -> list[dict[int, float]]:
    """Compares queries with the prototype, the normalised mean, of every class."""
    labels, inverse = np.unique(memory.labels, return_inverse=True)
    sums = np.zeros((len(labels), xq.shape[1]), np.float32)
    if len(labels):
        np.add.at(sums, inverse, memory.vectors(memory.ids))
    prototypes = _normalize(sums)
    classes_by_digest: dict[str, set[int]] = defaultdict(set)
    for entry, index in zip(memory.entries, inverse if options.exclude else (), strict=False):
        if entry.digest:
            classes_by_digest[entry.digest].add(int(index))
    results = []
    for start in range(0, len(xq), _BLOCK):
        block = xq[start : start + _BLOCK]
        for row, scores in enumerate(block @ prototypes.T, start):
            excluded = options.excluded(row)
            for index in classes_by_digest.get(excluded, ()):
                ids = _class_ids(memory, int(labels[index]), excluded)
                scores[index] = class_score(memory.vectors(ids), xq[row], "prototype", 1) if len(ids) else -np.inf
            order = np.argsort(-scores, kind="stable")[:k]
            results.append({int(labels[i]): float(scores[i]) for i in order if scores[i] > -np.inf})
    return results


def _standardize(scores: dict[int, float]) -> dict[int, float]:
    """Scales scores to zero mean and unit standard deviation."""
    values = np.array(list(scores.values()) or [0.0])
    spread = values.std()
    scale = spread if spread > _EQUAL else 1.0
    return {label: (value - values.mean()) / scale for label, value in scores.items()}


def fused_classes(
    images: Memory, names: Memory, xq: np.ndarray, k: int, text_weight: float, options: SearchOptions
) -> list[dict[int, float]]:
    """Finds each query's k best classes by fused image and name scores.

    Image-to-image and image-to-name similarities are on different scales, so each is
    standardised over the classes fetched for the query before they are mixed.

    Args:
        images: Memory of images.
        names: Memory of names.
        xq: Unit queries of shape ``[nq, d]``.
        k: Number of distinct classes.
        text_weight: Weight of the name's score, 0 to 1.
        options: ``initial_fetch`` is the minimum number of classes to take from each memory before mixing. Excluded
            digests and aggregation apply to images; a name's score is that of its best synonym.

    Returns:
        list[dict[int, float]]: Per query, label to fused score, best first.
    """
    classes = max(options.initial_fetch, k)
    name_options = SearchOptions(options.initial_fetch)
    by_image = nearest_classes(images, xq, classes, replace(options, initial_fetch=4 * options.initial_fetch))
    by_name = nearest_classes(names, xq, classes, name_options)
    results = []
    for row, (image_scores, name_scores) in enumerate(zip(by_image, by_name, strict=True)):
        labels = image_scores.keys() | name_scores.keys()
        image_all = _standardize(_complete(images, xq[row], image_scores, labels, options, options.excluded(row)))
        name_all = _standardize(_complete(names, xq[row], name_scores, labels, name_options, ""))
        lowest = min(image_all.values(), default=0.0), min(name_all.values(), default=0.0)
        fused = {
            label: (1 - text_weight) * image_all.get(label, lowest[0]) + text_weight * name_all.get(label, lowest[1])
            for label in sorted(labels)
        }
        results.append(_top_k(fused, k))
    return results


def _complete(
    memory: Memory,
    query: np.ndarray,
    scores: dict[int, float],
    labels: set[int],
    options: SearchOptions,
    excluded: str,
) -> dict[int, float]:
    """Adds the scores of the labels that the search did not reach and that have an entry."""
    missing = {label: _class_ids(memory, label, excluded) for label in labels - scores.keys()}
    return scores | {
        label: class_score(memory.vectors(ids), query, options.aggregate, options.top_m)
        for label, ids in missing.items()
        if len(ids)
    }


def to_candidates(scores: dict[int, float], names: Sequence[str]) -> tuple[Candidate, ...]:
    """Converts scored labels to candidates with class names."""
    return tuple(Candidate(label, names[label], score) for label, score in scores.items())
