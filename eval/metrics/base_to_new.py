"""Base-to-new generalisation: top-1 on both halves of the classes and their harmonic mean, with intervals.

Source: CoCoOp (arXiv 2203.05557, section 4.1). Over several data sets the mean of the halves is taken first, and ``H``
is the harmonic mean of the two means, as in its Table 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.intervals import DIFFERENCE, SHARE, Resampled, interval, resample
from eval.metrics.summary import GAINS, RETRIEVERS, HitSet, common_methods, hits_by_seed

_SEED = 1000
"""Added to the resampling's seed for new classes, whose bootstrap is independent of the base classes'."""


def harmonic_mean(base: float, new: float) -> float:
    """Returns the harmonic mean of two shares; 0 where one of them is 0."""
    return 2 * base * new / (base + new) if base > 0 and new > 0 else 0.0


def _average(values: Sequence[np.ndarray], sets: Sequence[HitSet], resamples: int, seed: int) -> Resampled:
    """Averages the bootstraps of several data sets, weighted equally.

    Args:
        values: Hits by data set, per seed and image, shape ``[s, n]``.
        sets: For the classes.
        resamples: Number of bootstrap samples.
        seed: Of the first data set's resampling.
    """
    parts = [
        resample(hits, classes, resamples, seed + index, SHARE)
        for index, (hits, (_, classes)) in enumerate(zip(values, sets, strict=True))
    ]
    spreads = tuple((variance / len(parts) ** 2, freedom) for part in parts for variance, freedom in part.spreads)
    deviations = np.mean([part.deviations for part in parts], axis=0)
    return Resampled(float(np.mean([part.mean for part in parts])), deviations, spreads)


def combine_halves(base: Resampled, new: Resampled) -> Resampled:
    """Computes the harmonic mean's bootstrap from those of the halves, which have no class in common.

    The variance components are the halves', scaled by the squared derivatives of the harmonic mean.
    """
    mean, total = harmonic_mean(base.mean, new.mean), base.mean + new.mean
    below, above = (np.clip(half.mean + half.deviations, 0, 1) for half in (base, new))
    sums = below + above
    samples = np.divide(2 * below * above, sums, out=np.zeros_like(sums), where=sums > 0)
    slopes = (2 * (new.mean / total) ** 2, 2 * (base.mean / total) ** 2) if total > 0 else (0.0, 0.0)
    spreads = [
        (slope**2 * variance, freedom)
        for slope, half in zip(slopes, (base, new), strict=True)
        for variance, freedom in half.spreads
    ]
    return Resampled(mean, samples - mean, tuple(spreads))


def _subtract(method: Resampled, reference: Resampled) -> Resampled:
    """Computes a difference from two bootstraps over the same samples of classes and seeds.

    The components of its spread are unknown; its degrees of freedom are taken from the method's.
    """
    deviations = method.deviations - reference.deviations
    total = sum(variance for variance, _ in method.spreads)
    scale = float(deviations.var()) / total if total > 0 else 0.0
    spreads = tuple((scale * variance, freedom) for variance, freedom in method.spreads)
    return Resampled(method.mean - reference.mean, deviations, spreads)


def _to_dict(part: Resampled, bounds: tuple[float, float] = SHARE) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), interval([part], bounds), strict=True))


def summarise_halves(base: Sequence[HitSet], new: Sequence[HitSet], resamples: int) -> list[dict]:
    """Summarises methods by base, new and harmonic mean, over seeds and over data sets.

    Args:
        base: Hits on base classes, by data set.
        new: Hits on new classes of the same data sets.
        resamples: Number of bootstrap samples.

    Returns:
        list[dict]: Per task and shots that all have: ``halves``, by method, with mean and 95 % interval of ``base``,
        ``new`` and ``H``; ``methods`` with H as ``mean``, ``low``, ``high`` and its ``sd`` over seeds; and the gains in
        H as ``eval.metrics.summary.summarise`` names them.
    """
    summary = []
    for (task, shots), methods in common_methods([*base, *new]).items():
        halves: dict[str, dict] = {}
        boots: dict[str, Resampled] = {}
        metrics: dict[str, dict] = {}
        seeds = 1
        for method in methods:
            hits = [[hits_by_seed(of_set, task, shots, method) for of_set, _ in sets] for sets in (base, new)]
            parts = [
                _average(of_half, sets, resamples, seed)
                for of_half, sets, seed in zip(hits, (base, new), (0, _SEED), strict=True)
            ]
            boots[method] = combine_halves(*parts)
            halves[method] = dict(zip(("base", "new", "H"), map(_to_dict, (*parts, boots[method])), strict=True))
            means = [np.mean([values.mean(1) for values in of_half], axis=0) for of_half in hits]
            by_seed = [harmonic_mean(*pair) for pair in zip(*means, strict=True)]
            seeds = len(by_seed)
            sd = float(np.std(by_seed, ddof=1)) if seeds > 1 else 0.0
            metrics[method] = halves[method]["H"] | {"sd": sd}
        best = max((method for method in RETRIEVERS if method in methods), key=lambda m: metrics[m]["mean"])
        gains = {}
        for name in GAINS:
            method, _, over = name.partition("_minus_")
            if method in boots:
                reference = best if over == "retriever" else "rar_untuned"
                difference = _subtract(boots[method], boots[reference])
                gains[name] = {"reference": reference} | _to_dict(difference, DIFFERENCE)
        head = {"task": task, "shots": shots, "seeds": seeds}
        summary.append(head | {"methods": metrics, "halves": halves, **gains})
    return summary
