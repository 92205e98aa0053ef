"""Clustering accuracy, semantic accuracy, NMI and ARI of guessed class names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Embed = Callable[[Sequence[str]], np.ndarray]


def _ids(names: Sequence[str]) -> np.ndarray:
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1]


def cluster_accuracy(predicted: Sequence[str], true: Sequence[str]) -> float:
    """cACC: the share of images that are right under the best one-to-one match of guessed and true names.

    Source: FineR's protocol; counts ``w[pred, true]`` over as many ids as the larger side has, matched by the
    Hungarian algorithm.

    Args:
        predicted: A name per image; what it says has no part in the figure, only which images share it.
        true: A name per image.

    Returns:
        float: 0 to 1.
    """
    from scipy.optimize import linear_sum_assignment

    guesses, truths = _ids(predicted), _ids(true)
    size = int(max(guesses.max(), truths.max())) + 1
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (guesses, truths), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / len(truths))


def semantic_accuracy(predicted: Sequence[str], true: Sequence[str], embed: Embed) -> float:
    """sACC: the mean cosine of guessed and true names as sentences; bare names, no rescaling.

    Args:
        predicted: A name per image.
        true: A name per image.
        embed: From names to unit vectors of shape ``[n, d]``.

    Returns:
        float: -1 to 1.
    """
    names = sorted({*predicted, *true})
    place = {name: number for number, name in enumerate(names)}
    vectors = embed(names)
    guesses, truths = (vectors[[place[name] for name in side]] for side in (predicted, true))
    return float((guesses * truths).sum(1).mean())


def score_names(predicted: Sequence[str], true: Sequence[str], embed: Embed | None = None) -> dict[str, float]:
    """All figures of one run.

    Args:
        predicted: A name per image.
        true: A name per image.
        embed: For sACC; without, the figure is left out.

    Returns:
        dict[str, float]: ``cacc``, ``sacc`` where it can be had, ``nmi`` (by the arithmetic mean of the entropies),
        ``ari``, and the numbers of images and of guessed and true names.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    guesses, truths = _ids(predicted), _ids(true)
    metrics = {"cacc": cluster_accuracy(predicted, true)}
    if embed is not None:
        metrics["sacc"] = semantic_accuracy(predicted, true, embed)
    metrics["nmi"] = float(normalized_mutual_info_score(truths, guesses))
    metrics["ari"] = float(adjusted_rand_score(truths, guesses))
    sizes = {"images": len(truths), "guessed_names": len(set(predicted)), "true_names": len(set(true))}
    return metrics | sizes


def summarise_runs(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each figure over runs."""
    keys = [key for key in ("cacc", "sacc", "nmi", "ari") if key in runs[0]]
    values = {key: np.array([run[key] for run in runs]) for key in keys}
    return {
        key: {"mean": float(v.mean()), "sd": float(v.std(ddof=1)) if len(v) > 1 else 0.0} for key, v in values.items()
    }
