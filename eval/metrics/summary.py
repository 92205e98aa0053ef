"""The summary over seeds, and over data sets: means, deviations and intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from eval.metrics.intervals import DIFFERENCE, SHARE, interval, resample

RETRIEVERS = ("clip_zero_shot", "clip_knn", "clip_fused")
ALONE = "ranker_alone"
GAINS = ("rar_minus_retriever", "rar_minus_untuned", "rar_fused_minus_retriever")
"""Names of what is gained; the last is there with ``eval.fusion`` alone. The method stands before ``_minus_``."""
AVERAGE = "average"
"""Stands for all data sets in rows and summaries."""

HitSet = tuple[dict[tuple[str, int, int, str], np.ndarray], np.ndarray]
"""A data set's top-1 hits per image by (task, shots, seed, method), shape ``[n]`` each; and the images' classes."""


def _common(sets: Sequence[HitSet]) -> dict[tuple[str, int], list[str]]:
    """The methods that every data set has, by the tasks and shots that every data set has."""
    found: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for task, shots, _, method in sets[0][0]:
        if all(any((t, s, m) == (task, shots, method) for t, s, _, m in hits) for hits, _ in sets):
            found[task, shots][method] = None
    return {setting: list(methods) for setting, methods in found.items()}


def _by_seed(hits: dict[tuple, np.ndarray], task: str, shots: int, method: str) -> np.ndarray:
    """Hits of shape ``[s, n]``, by ascending seed."""
    own = {key[2]: values for key, values in hits.items() if (key[0], key[1], key[3]) == (task, shots, method)}
    return np.stack([own[seed] for seed in sorted(own)])


def _mean_and_interval(
    values: Sequence[np.ndarray], sets: Sequence[HitSet], resamples: int, bounds: tuple[float, float]
) -> dict[str, float]:
    """A mean over data sets with its interval.

    Args:
        values: By data set, per seed and image, shape ``[s, n]``.
        sets: For the classes.
        resamples: Of the bootstrap, which draws classes and seeds of each data set on its own.
        bounds: The values' range.
    """
    parts = [
        resample(by_seed, classes, resamples, number, bounds)
        for number, (by_seed, (_, classes)) in enumerate(zip(values, sets, strict=True))
    ]
    mean, low, high = interval(parts, bounds)
    return {"mean": mean, "low": low, "high": high}


def summarise(sets: Sequence[HitSet], resamples: int) -> list[dict]:
    """Mean and standard deviation over seeds, and what the ranker gains; over data sets, each counts alike.

    Args:
        sets: One data set, or several to average.
        resamples: Of the bootstrap.

    Returns:
        list[dict]: Per task and shots that all have: ``methods`` with ``mean``, ``sd`` over seeds and the 95 % interval
        ``low`` to ``high`` of top-1; and ``GAINS`` (over the best retriever row by mean, or the untuned ranker), each
        with mean and interval, paired by image. ``eval.metrics.intervals.resample`` says what is drawn.
    """
    summary = []
    for (task, shots), methods in _common(sets).items():
        hits = {method: [_by_seed(own, task, shots, method) for own, _ in sets] for method in methods}
        metrics = {}
        for method, values in hits.items():
            by_seed = np.mean([own.mean(1) for own in values], axis=0)
            sd = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else 0.0
            metrics[method] = _mean_and_interval(values, sets, resamples, SHARE) | {"sd": sd}
        best = max((m for m in RETRIEVERS if m in methods), key=lambda m: metrics[m]["mean"])
        gains = {}
        for name in GAINS:
            method, _, over = name.partition("_minus_")
            if method not in hits:
                continue
            reference = best if over == "retriever" else "rar_untuned"
            differences = [tuned - other for tuned, other in zip(hits[method], hits[reference], strict=True)]
            gains[name] = {"reference": reference} | _mean_and_interval(differences, sets, resamples, DIFFERENCE)
        seeds = len(hits["rar"][0])
        summary.append({"task": task, "shots": shots, "seeds": seeds, "methods": metrics, **gains})
    return summary


def average_rows(by_set: Sequence[Sequence[dict]]) -> list[dict]:
    """Rows of ``dataset`` ``average`` for what every data set has a row of.

    Args:
        by_set: The rows of each data set.

    Returns:
        list[dict]: Means of shares, each data set counting alike; sums of images, of images corrected and broken, and
        of outcomes.
    """
    tables = [{(r["task"], r["shots"], r["seed"], r["method"]): r for r in rows} for rows in by_set]
    return [_average([table[key] for table in tables]) for key in tables[0] if all(key in table for table in tables)]


def _average(rows: Sequence[dict]) -> dict:
    average = dict(rows[0]) | {"dataset": AVERAGE, "n": sum(row["n"] for row in rows)}
    for share in ("top1", "top5", "recall_at_k"):
        average[share] = float(np.mean([row[share] for row in rows]))
    if "outcomes" in average:
        given = [row["top1_given_hit"] for row in rows if row["top1_given_hit"] is not None]
        average["top1_given_hit"] = float(np.mean(given)) if given else None
        average |= {moved: sum(row[moved] for row in rows) for moved in ("corrected", "broken")}
        average["outcomes"] = dict(sum((Counter(row["outcomes"]) for row in rows), Counter()))
    return average
