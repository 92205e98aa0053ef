"""Results of searches as FAISS returns them: a row of scores and of labels per query, padded with -inf and -1."""

from __future__ import annotations

import numpy as np

Results = tuple[np.ndarray, np.ndarray]
"""Scores, float32, and labels, int64, each of shape ``[nq, k]``; -inf and -1 where a query has fewer than k."""


def take_columns(scores: np.ndarray, labels: np.ndarray, columns: np.ndarray, k: int) -> Results:
    """Returns the first k of each row's columns in the order of ``columns``, ``[nq, m]``; padded if m is below k."""
    columns = columns[:, :k]
    padded = np.full((len(scores), k), -np.inf, np.float32), np.full((len(scores), k), -1, np.int64)
    padded[0][:, : columns.shape[1]] = np.take_along_axis(scores, columns, 1)
    padded[1][:, : columns.shape[1]] = np.take_along_axis(labels, columns, 1)
    return padded


def best_first(scores: np.ndarray, labels: np.ndarray, k: int) -> Results:
    """Sorts each row by descending score, and equal scores by label; keeps k."""
    return take_columns(scores, labels, np.lexsort((labels, -scores)), k)


def keep_first(scores: np.ndarray, labels: np.ndarray, is_kept: np.ndarray, k: int) -> Results:
    """Keeps the first k columns of each row for which ``is_kept``, ``[nq, m]``."""
    scores, labels = np.where(is_kept, scores, -np.inf), np.where(is_kept, labels, -1)
    return take_columns(scores, labels, np.argsort(~is_kept, axis=1, kind="stable"), k)


def mark_first(labels: np.ndarray) -> np.ndarray:
    """Returns where each row's labels, ``[nq, m]``, occur for the first time; never where they are -1."""
    order = np.argsort(labels, axis=1, kind="stable")
    ordered = np.take_along_axis(labels, order, 1)
    is_first = np.empty(labels.shape, bool)
    np.put_along_axis(is_first, order, (np.diff(ordered, prepend=-1) != 0) & (ordered >= 0), 1)
    return is_first


def label_rows(labels: np.ndarray) -> list[list[int]]:
    """Converts labels, ``[nq, k]``, to a list for each query, without the padding."""
    return [[label for label in row if label >= 0] for row in labels.tolist()]
