"""From a query's embedding to its candidates: the k best distinct classes, or the k nearest entries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.core.records import Candidate
from data_prep.memory.memory import Memory

_BLOCK = 1024  # queries that are compared with all prototypes at once
_EQUAL = 1e-6  # scores that spread less are equal but for rounding


def _hits(memory: Memory, xq: np.ndarray, fetch: int, rows: np.ndarray, exclude: Sequence[str] | None):
    """Searches for some queries and yields each one's row, its entries that count and their scores, best first."""
    similarities, ids = memory.search(xq[rows], fetch)
    places = memory.rows(ids)
    for row, scores, found, hits in zip(rows, similarities, ids, places, strict=True):
        shown = found >= 0  # an approximate index may find fewer
        if exclude:
            digests = [memory.entries[hit].digest if ok else "" for hit, ok in zip(hits, shown, strict=True)]
            shown &= np.array([not digest or digest != exclude[row] for digest in digests], bool)
        yield row, hits[shown], scores[shown], (scores[-1] if len(scores) else -np.inf)


def nearest_entries(
    memory: Memory, xq: np.ndarray, k: int, pool: int, exclude: Sequence[str] | None = None
) -> list[list[tuple[int, float]]]:
    """Finds each query's k nearest entries, as the paper's released code does.

    Returns:
        list[list[tuple[int, float]]]: Per query, label and similarity, best first; a label may stand twice.
    """
    found: list[list[tuple[int, float]]] = [[] for _ in xq]
    for rows, fetch in _widening(memory, len(xq), max(pool, k), lambda row: len(found[row]) < k):
        for row, hits, scores, _ in _hits(memory, xq, fetch, rows, exclude):
            found[row] = list(zip(memory.labels[hits[:k]].tolist(), scores[:k].tolist(), strict=True))
    return found


def _widening(memory: Memory, queries: int, fetch: int, is_open) -> Iterator[tuple[np.ndarray, int]]:
    """Rounds of searching: all queries, then those still open with twice as many entries, to the whole memory."""
    rows = np.arange(queries)
    while len(rows):
        yield rows, fetch
        if fetch >= len(memory.entries):
            return
        rows = np.array([row for row in rows if is_open(row)], int)
        fetch *= 2


def nearest_classes(
    memory: Memory,
    xq: np.ndarray,
    k: int,
    pool: int,
    exclude: Sequence[str] | None = None,
    aggregate: str = "max",
    top_m: int = 1,
) -> list[dict[int, float]]:
    """Finds each query's k best distinct classes.

    Args:
        memory: What to search.
        xq: Unit queries of shape ``[nq, d]``.
        k: Distinct classes; fewer come back where the memory holds fewer.
        pool: Entries to fetch at first. Queries that it leaves short fetch twice as many, and so on.
        exclude: A content digest per query; entries of that content do not count. This is how
            a query is left out of its own memory, and its byte-identical copies with it.
        aggregate: A class's score: its best entry (``max``)'s, the ``mean`` of its ``top_m`` best, or its ``prototype``'s.
        top_m: Entries of ``mean``.

    Returns:
        list[dict[int, float]]: Per query, label to similarity, best first.
    """
    if aggregate == "prototype":
        return _by_prototype(memory, xq, k, exclude)
    if aggregate == "mean" and top_m > 1:
        return _by_mean(memory, xq, k, pool, exclude, top_m)
    found: list[dict[int, float]] = [{} for _ in xq]
    for rows, fetch in _widening(memory, len(xq), max(pool, k), lambda row: len(found[row]) < k):
        for row, hits, scores, _ in _hits(memory, xq, fetch, rows, exclude):
            best: dict[int, float] = {}
            for label, score in zip(memory.labels[hits].tolist(), scores.tolist(), strict=True):
                if len(best) == k:
                    break
                best.setdefault(label, score)
            found[row] = best
    return found


def class_score(vectors: np.ndarray, query: np.ndarray, aggregate: str, top_m: int) -> float:
    """A class's similarity to a query.

    Args:
        vectors: Its entries' unit vectors, shape ``[m, d]`` with ``m`` at least 1.
        query: Unit vector, shape ``[d]``.
        aggregate: As in ``nearest_classes``.
        top_m: As in ``nearest_classes``.
    """
    if aggregate == "prototype":
        return float(_unit(vectors.mean(0)) @ query)
    similarities = vectors @ query
    if aggregate == "mean":
        return float(np.sort(similarities)[-top_m:].mean())
    return float(similarities.max())


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _own_ids(memory: Memory, label: int, left_out: str) -> np.ndarray:
    """A class's entries, without those of a content that is left out."""
    ids = memory.ids_of(label)
    if not left_out:
        return ids
    return ids[np.array([memory.entries[row].digest != left_out for row in memory.rows(ids)], bool)]


def _by_mean(
    memory: Memory, xq: np.ndarray, k: int, pool: int, exclude: Sequence[str] | None, top_m: int
) -> list[dict[int, float]]:
    """Scores every class that a search meets by all its entries, until no other class can do better.

    A class that the search has not met has its best entry, and so its mean, below the last one met.
    """
    found: list[dict[int, float]] = [{} for _ in xq]
    bound = np.full(len(xq), -np.inf)

    def is_open(row: int) -> bool:
        return len(found[row]) < k or min(found[row].values()) < bound[row]

    for rows, fetch in _widening(memory, len(xq), max(pool, k), is_open):
        for row, hits, _, last in _hits(memory, xq, fetch, rows, exclude):
            bound[row] = last
            scores = {
                label: class_score(
                    memory.vectors(_own_ids(memory, label, exclude[row] if exclude else "")), xq[row], "mean", top_m
                )
                for label in dict.fromkeys(memory.labels[hits].tolist())
            }
            found[row] = _best_of(scores, k)
    return found


def _best_of(scores: dict[int, float], k: int) -> dict[int, float]:
    return {label: scores[label] for label in sorted(scores, key=lambda label: -scores[label])[:k]}


def _by_prototype(memory: Memory, xq: np.ndarray, k: int, exclude: Sequence[str] | None) -> list[dict[int, float]]:
    """Compares with the normalised mean of every class."""
    labels, inverse = np.unique(memory.labels, return_inverse=True)
    sums = np.zeros((len(labels), xq.shape[1]), np.float32)
    if len(labels):
        np.add.at(sums, inverse, memory.vectors(memory.ids))
    prototypes = _unit(sums)
    by_digest: dict[str, set[int]] = defaultdict(set)
    for entry, place in zip(memory.entries, inverse if exclude else (), strict=False):
        if entry.digest:
            by_digest[entry.digest].add(int(place))
    found = []
    for start in range(0, len(xq), _BLOCK):
        block = xq[start : start + _BLOCK]
        for row, scores in enumerate(block @ prototypes.T, start):
            for place in by_digest.get(exclude[row], ()) if exclude else ():
                own = _own_ids(memory, int(labels[place]), exclude[row])
                scores[place] = class_score(memory.vectors(own), xq[row], "prototype", 1) if len(own) else -np.inf
            order = np.argsort(-scores, kind="stable")[:k]
            found.append({int(labels[i]): float(scores[i]) for i in order if scores[i] > -np.inf})
    return found


def _standardised(scores: dict[int, float]) -> dict[int, float]:
    values = np.array(list(scores.values()) or [0.0])
    spread = values.std()
    scale = spread if spread > _EQUAL else 1.0
    return {label: (value - values.mean()) / scale for label, value in scores.items()}


def fused_classes(
    images: Memory,
    names: Memory,
    xq: np.ndarray,
    k: int,
    pool: int,
    weight: float,
    exclude: Sequence[str] | None = None,
    aggregate: str = "max",
    top_m: int = 1,
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
        aggregate: As in ``nearest_classes``; concerns images. A name's score is its best synonym's.
        top_m: As in ``nearest_classes``.

    Returns:
        list[dict[int, float]]: Per query, label to fused score, best first.
    """
    by_image = nearest_classes(images, xq, max(pool, k), 4 * pool, exclude, aggregate, top_m)
    by_name = nearest_classes(names, xq, max(pool, k), pool)
    fused = []
    for row, (image_scores, name_scores) in enumerate(zip(by_image, by_name, strict=True)):
        labels = image_scores.keys() | name_scores.keys()
        left_out = exclude[row] if exclude else ""
        image_all = _standardised(_completed(images, xq[row], image_scores, labels, left_out, aggregate, top_m))
        name_all = _standardised(_completed(names, xq[row], name_scores, labels, "", "max", 1))
        lowest = min(image_all.values(), default=0.0), min(name_all.values(), default=0.0)
        mixed = {
            label: (1 - weight) * image_all.get(label, lowest[0]) + weight * name_all.get(label, lowest[1])
            for label in sorted(labels)
        }
        fused.append(_best_of(mixed, k))
    return fused


def _completed(
    memory: Memory, query: np.ndarray, scores: dict[int, float], labels: set[int], left_out: str, aggregate, top_m
) -> dict[int, float]:
    """Adds the scores of classes that the search did not reach and that have an entry."""
    missing = {label: _own_ids(memory, label, left_out) for label in labels - scores.keys()}
    return scores | {
        label: class_score(memory.vectors(ids), query, aggregate, top_m) for label, ids in missing.items() if len(ids)
    }


def to_candidates(scores: dict[int, float], names: Sequence[str]) -> tuple[Candidate, ...]:
    """Puts class names to scored labels."""
    return tuple(Candidate(label, names[label], score) for label, score in scores.items())
