"""Clustering accuracy, semantic accuracy, NMI and ARI of guessed class names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Embed = Callable[[Sequence[str]], np.ndarray]
METRICS = ("cacc", "sacc", "nmi", "ari")


def name_ids(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Numbers names: returns the distinct ones in alphabetical order, and the id of each, shape ``[n]``."""
    distinct, ids = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return distinct.tolist(), ids


def contingency_table(guesses: np.ndarray, truths: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    """Counts images by guessed and true name.

    Args:
        guesses: Ids of the guessed names, shape ``[n]``.
        truths: Ids of the true names, shape ``[n]``.
        sizes: Numbers of guessed and of true names.

    Returns:
        np.ndarray: Counts of shape ``[guessed, true]``.
    """
    return np.bincount(guesses * sizes[1] + truths, minlength=sizes[0] * sizes[1]).reshape(sizes)


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _pairs(counts: np.ndarray) -> float:
    return float((counts * (counts - 1.0)).sum() / 2)


def cluster_metrics(counts: np.ndarray) -> dict[str, float]:
    """Computes cACC, NMI and ARI, fast enough to bootstrap; NMI and ARI equal scikit-learn's to about 1e-15.

    cACC is the share of images that are right under the best one-to-one matching of guessed and true names, found by
    the Hungarian algorithm (FineR's protocol): what a guess says does not matter, only which images share it. NMI is
    normalised by the arithmetic mean of the entropies.

    Args:
        counts: Numbers of images, int, shape ``[guessed, true]``; rows and columns without images do not matter.

    Returns:
        dict[str, float]: ``cacc`` and ``nmi``, 0 to 1, and ``ari``, at most 1.
    """
    from scipy.optimize import linear_sum_assignment

    total = counts.sum()
    rows, columns = linear_sum_assignment(counts, maximize=True)
    entropy_guessed, entropy_true = _entropy(counts.sum(1)), _entropy(counts.sum(0))
    entropies = entropy_guessed + entropy_true
    mutual_information = entropies - _entropy(counts.ravel())
    pairs, pairs_guessed, pairs_true = _pairs(counts), _pairs(counts.sum(1)), _pairs(counts.sum(0))
    expected = pairs_guessed * pairs_true / max(total * (total - 1) / 2, 1)
    highest = (pairs_guessed + pairs_true) / 2
    return {
        "cacc": float(counts[rows, columns].sum() / total),
        "nmi": max(mutual_information / (entropies / 2), 0.0) if entropies else 1.0,
        "ari": (pairs - expected) / (highest - expected) if highest != expected else 1.0,
    }


def semantic_accuracy(predicted: Sequence[str], true: Sequence[str], embed: Embed) -> float:
    """Computes sACC: the mean cosine of guessed and true names as sentences; bare names, no rescaling.

    Args:
        predicted: A name per image.
        true: A name per image.
        embed: From names to unit vectors of shape ``[n, d]``.

    Returns:
        float: -1 to 1.
    """
    names = sorted({*predicted, *true})
    index_of = {name: index for index, name in enumerate(names)}
    vectors = embed(names)
    guesses, truths = (vectors[[index_of[name] for name in side]] for side in (predicted, true))
    return float((guesses * truths).sum(1).mean())


def score_names(predicted: Sequence[str], true: Sequence[str], embed: Embed | None = None) -> dict[str, float]:
    """Computes all metrics of one run.

    Args:
        predicted: A name per image.
        true: A name per image.
        embed: For sACC, which is left out without it.

    Returns:
        dict[str, float]: ``METRICS``, and the numbers of images and of guessed and true names.
    """
    (guessed_names, guesses), (true_names, truths) = name_ids(predicted), name_ids(true)
    sizes = len(guessed_names), len(true_names)
    metrics = cluster_metrics(contingency_table(guesses, truths, sizes))
    if embed is not None:
        metrics["sacc"] = semantic_accuracy(predicted, true, embed)
    counts = {"images": len(truths), "guessed_names": sizes[0], "true_names": sizes[1]}
    return {key: metrics[key] for key in METRICS if key in metrics} | counts


def summarise_runs(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Computes mean and standard deviation of each metric over runs."""
    values = {key: np.array([run[key] for run in runs]) for key in METRICS if key in runs[0]}
    return {
        key: {"mean": float(v.mean()), "sd": float(v.std(ddof=1)) if len(v) > 1 else 0.0} for key, v in values.items()
    }
