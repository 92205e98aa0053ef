"""Retrieval: the best distinct classes of each query, and the scores of given classes, by embedding similarity.

A memory with an exact index is compared completely, by blocked matrix products (``dense``); one with an approximate
index is searched through it (``fetching``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from data_prep.embedding.pair import Queries, for_images, for_names
from data_prep.memory.columns import Results, best_first
from data_prep.memory.dense import DenseBlock, DenseScorer
from data_prep.memory.fetching import FetchedBlock, FetchingScorer
from data_prep.memory.memory import Memory
from data_prep.memory.options import SearchOptions

_EQUAL = 1e-6  # scores with a smaller standard deviation are equal except for rounding
_READING_COST = 30  # products of a vector in a matrix that take as long as reading one vector by itself


def _make_scorer(memory: Memory, options: SearchOptions, queries: int) -> DenseScorer | FetchingScorer:
    if options.aggregate == "prototype" or memory.index.kind == "flat":
        return DenseScorer(memory, options, queries)
    return FetchingScorer(memory, options)


def nearest_classes(memory: Memory, xq: np.ndarray, k: int, options: SearchOptions) -> Results:
    """Finds each query's k best distinct classes.

    Args:
        memory: Memory to search.
        xq: Unit queries of shape ``[nq, d]``.
        k: Number of distinct classes.
        options: Initial fetch, excluded digests and aggregation.

    Returns:
        Results: Scores and labels, best first; equal scores by label. Of classes that equal the k-th, any may be
        kept.
    """
    scores, labels = np.full((len(xq), k), -np.inf, np.float32), np.full((len(xq), k), -1, np.int64)
    scorer = _make_scorer(memory, options, len(xq))
    for block in _split_queries(len(xq), scorer.block_size):
        scores[block], labels[block] = best_first(*scorer.score(xq[block], block.start).best(k), k)
    return scores, labels


def _split_queries(queries: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, queries)) for start in range(0, queries, size))


def class_scores(memory: Memory, xq: np.ndarray, labels: np.ndarray, options: SearchOptions) -> np.ndarray:
    """Scores given classes for each query.

    Args:
        memory: The classes' entries.
        xq: Unit queries of shape ``[nq, d]``.
        labels: Classes to score, shape ``[nq, k]``; -1 for none.
        options: Excluded digests and aggregation.

    Returns:
        np.ndarray: float32, shape ``[nq, k]``; NaN where the class has no entry that is not excluded.
    """
    classes = memory.layout.find(labels)
    read = int(memory.layout.counts[classes[classes >= 0]].sum())
    compares_all = memory.index.kind == "flat" and len(memory) * len(xq) <= _READING_COST * read
    scorer = DenseScorer(memory, options, len(xq)) if compares_all else FetchingScorer(memory, options)
    scores = np.empty(labels.shape, np.float32)
    for block in _split_queries(len(xq), scorer.block_size):
        scores[block] = scorer.score(xq[block], block.start).of(labels[block])
    return np.where(scores > -np.inf, scores, np.nan)


def fused_classes(
    images: Memory, names: Memory, xq: Queries, k: int, text_weight: float, options: SearchOptions
) -> Results:
    """Finds each query's k best classes by fused image and name scores.

    Image-to-image and image-to-name similarities are on different scales, so each is
    standardised over the classes fetched for the query before they are mixed.

    Args:
        images: Memory of images.
        names: Memory of names.
        xq: Unit queries of shape ``[nq, d]``, or those of each memory's encoder.
        k: Number of distinct classes.
        text_weight: Weight of the name's score, 0 to 1.
        options: ``initial_fetch`` is the minimum number of classes to take from each memory before mixing. Excluded
            digests and aggregation apply to images; a name's score is that of its best synonym.

    Returns:
        Results: Fused scores and labels, best first; equal scores by label. Of classes that equal the k-th, any may be
        kept.
    """
    most = max(options.initial_fetch, k)
    by_image = _make_scorer(images, replace(options, initial_fetch=4 * options.initial_fetch), len(xq))
    by_name = _make_scorer(names, SearchOptions(options.initial_fetch), len(xq))
    scores, labels = np.full((len(xq), k), -np.inf, np.float32), np.full((len(xq), k), -1, np.int64)
    for block in _split_queries(len(xq), min(by_image.block_size, by_name.block_size)):
        image_block = by_image.score(for_images(xq)[block], block.start)
        name_block = by_name.score(for_names(xq)[block], block.start)
        image_scores, name_scores, union = _complete(image_block, name_block, most)
        fused = (1 - text_weight) * _standardize(image_scores) + text_weight * _standardize(name_scores)
        fused[union < 0] = -np.inf
        scores[block], labels[block] = best_first(fused, union, k)
    return scores, labels


def _complete(
    image_block: DenseBlock | FetchedBlock, name_block: DenseBlock | FetchedBlock, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns image scores, name scores and labels of the classes that are among the best by image or by name.

    Returns:
        tuple: Each of shape ``[b, m]``; a score is -inf where the class has no entry, a label -1 where a query has
        fewer classes.
    """
    image_scores, image_labels = image_block.best(most)
    name_scores, name_labels = name_block.best(most)
    labels = np.concatenate([image_labels, name_labels], 1)
    order = np.argsort(labels, axis=1, kind="stable")
    labels = np.take_along_axis(labels, order, 1)
    unknown_images, unknown_names = np.full_like(name_scores, -np.inf), np.full_like(image_scores, -np.inf)
    by_image = np.take_along_axis(np.concatenate([image_scores, unknown_images], 1), order, 1)
    by_name = np.take_along_axis(np.concatenate([unknown_names, name_scores], 1), order, 1)
    twice = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] >= 0)  # found by image, then by name: one class
    by_name[:, :-1][twice] = by_name[:, 1:][twice]
    by_name[:, 1:][twice] = -np.inf
    labels[:, 1:][twice] = -1
    for scores, block in ((by_image, image_block), (by_name, name_block)):
        missing = np.where(scores > -np.inf, -1, labels)
        np.copyto(scores, block.of(missing), where=missing >= 0)
    return by_image, by_name, labels


def _standardize(scores: np.ndarray) -> np.ndarray:
    """Scales each row's finite scores to zero mean and unit standard deviation; the others get the lowest of them.

    Args:
        scores: Shape ``[b, m]``, -inf where there is no score.
    """
    finite = scores > -np.inf
    counts = np.maximum(finite.sum(1, keepdims=True), 1)
    values = np.where(finite, scores, 0)
    centred = np.where(finite, values - values.sum(1, keepdims=True, dtype=np.float64) / counts, 0)
    spread = np.sqrt((centred**2).sum(1, keepdims=True) / counts)
    standardized = centred / np.where(spread > _EQUAL, spread, 1)
    lowest = np.where(finite, standardized, np.inf).min(1, keepdims=True, initial=np.inf)
    return np.where(finite, standardized, np.where(np.isfinite(lowest), lowest, 0))
