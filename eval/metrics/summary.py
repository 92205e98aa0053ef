"""Summary over seeds and over data sets: means, standard deviations and confidence intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from data_prep.settings.modes import ADAPTERS, CLIP_LORA
from eval.metrics.intervals import DIFFERENCE, SHARE, interval, resample

RETRIEVERS = ("clip_zero_shot", "clip_knn", "clip_fused", *ADAPTERS, CLIP_LORA)
"""Methods without a ranker: the retriever's, and the adapters that are fitted to its embeddings."""
ALONE = "ranker_alone"
GAINS = ("rar_minus_retriever", "rar_minus_untuned", "rar_fused_minus_retriever", "rar_fused_minus_untuned")
"""Names of the gains, as METHOD_minus_REFERENCE; those of ``rar_fused`` exist only with ``eval.fusion``."""
CHOICE = "choice"
"""Task of multiple choice. The true class is always among the candidates, so its rows are apart from retrieval's."""
AVERAGE = "average"
"""Name of the average over data sets in rows and summaries."""

HitSet = tuple[dict[tuple[str, int, int, str], np.ndarray], np.ndarray]
"""A data set's top-1 hits per image by (task, shots, seed, method), shape ``[n]`` each; and the images' classes."""


def common_methods(sets: Sequence[HitSet]) -> dict[tuple[str, int], list[str]]:
    """Returns the methods common to all data sets, by the tasks and shots common to all data sets."""
    common: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for task, shots, _, method in sets[0][0]:
        if all(any((t, s, m) == (task, shots, method) for t, s, _, m in hits) for hits, _ in sets):
            common[task, shots][method] = None
    return {setting: list(methods) for setting, methods in common.items()}


def hits_by_seed(hits: dict[tuple, np.ndarray], task: str, shots: int, method: str) -> np.ndarray:
    """Returns hits of shape ``[s, n]``, by ascending seed."""
    hits_of_seed = {key[2]: values for key, values in hits.items() if (key[0], key[1], key[3]) == (task, shots, method)}
    return np.stack([hits_of_seed[seed] for seed in sorted(hits_of_seed)])


def _mean_and_interval(
    values: Sequence[np.ndarray], sets: Sequence[HitSet], resamples: int, bounds: tuple[float, float]
) -> dict[str, float]:
    """Computes a mean over data sets with its interval.

    Args:
        values: By data set, per seed and image, shape ``[s, n]``.
        sets: For the classes.
        resamples: Bootstrap samples, in which classes and seeds are sampled independently per data set.
        bounds: The range of the values.
    """
    parts = [
        resample(by_seed, classes, resamples, index, bounds)
        for index, (by_seed, (_, classes)) in enumerate(zip(values, sets, strict=True))
    ]
    mean, low, high = interval(parts, bounds)
    return {"mean": mean, "low": low, "high": high}


def summarise(sets: Sequence[HitSet], resamples: int) -> list[dict]:
    """Summarises methods and gains over seeds, and over data sets, each of which counts equally.

    Args:
        sets: One data set, or several to average.
        resamples: Number of bootstrap samples.

    Returns:
        list[dict]: Per task and shots that all have: ``methods`` with ``mean``, ``sd`` over seeds and the 95 % interval
        ``low`` to ``high`` of top-1; and ``GAINS`` (over the retriever row with the best mean, or over the untuned
        ranker), each with mean and interval, paired by image. ``eval.metrics.intervals.resample`` describes the
        bootstrap.
    """
    summary = []
    for (task, shots), methods in common_methods(sets).items():
        hits = {method: [hits_by_seed(of_set, task, shots, method) for of_set, _ in sets] for method in methods}
        metrics = {}
        for method, values in hits.items():
            by_seed = np.mean([of_set.mean(1) for of_set in values], axis=0)
            sd = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else 0.0
            metrics[method] = _mean_and_interval(values, sets, resamples, SHARE) | {"sd": sd}
        best = max((m for m in RETRIEVERS if m in methods), key=lambda m: metrics[m]["mean"])
        gains = {}
        for name in GAINS:
            method, _, over = name.partition("_minus_")
            if method not in hits:
                continue
            reference = best if over == "retriever" else "rar_untuned"
            differences = [tuned - base for tuned, base in zip(hits[method], hits[reference], strict=True)]
            gains[name] = {"reference": reference} | _mean_and_interval(differences, sets, resamples, DIFFERENCE)
        seeds = len(hits["rar"][0])
        summary.append({"task": task, "shots": shots, "seeds": seeds, "methods": metrics, **gains})
    return summary


def average_rows(by_set: Sequence[Sequence[dict]], further: Sequence[str] = ()) -> list[dict]:
    """Averages the rows that every data set has, as rows of ``dataset`` ``average``.

    Args:
        by_set: The rows of each data set.
        further: Columns of further metrics, which are averaged like shares.

    Returns:
        list[dict]: Means of shares, equally weighted over data sets; sums of images, of images corrected and broken,
        and of outcomes.
    """
    tables = [{(r["task"], r["shots"], r["seed"], r["method"]): r for r in rows} for rows in by_set]
    keys = [key for key in tables[0] if all(key in table for table in tables)]
    return [_average([table[key] for table in tables], further) for key in keys]


def _average(rows: Sequence[dict], further: Sequence[str]) -> dict:
    average = dict(rows[0]) | {"dataset": AVERAGE, "n": sum(row["n"] for row in rows)}
    for share in ("top1", "top5", "recall_at_k"):
        average[share] = float(np.mean([row[share] for row in rows]))
    for column in further:
        values = [row[column] for row in rows if row.get(column) is not None]
        average[column] = float(np.mean(values)) if values else None
    if "outcomes" in average:
        with_hits = [row["top1_given_hit"] for row in rows if row["top1_given_hit"] is not None]
        average["top1_given_hit"] = float(np.mean(with_hits)) if with_hits else None
        average |= {count: sum(row[count] for row in rows) for count in ("corrected", "broken")}
        average["outcomes"] = dict(sum((Counter(row["outcomes"]) for row in rows), Counter()))
    return average
