"""Bootstrap confidence intervals of means over images, classes and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

LEVEL = 0.95
"""Nominal coverage of the intervals."""

SHARE = (0.0, 1.0)
"""Range of a share of images."""

DIFFERENCE = (-1.0, 1.0)
"""Range of a difference of two shares."""


@dataclass(frozen=True)
class Resampled:
    """A mean and its bootstrap distribution.

    Attributes:
        mean: Of the data.
        deviations: Bootstrap means minus the mean, shape ``[resamples]``, corrected for the bootstrap's bias with few
            groups.
        spreads: Variance components of the deviations, each with the degrees of freedom of its estimate.
    """

    mean: float
    deviations: np.ndarray
    spreads: tuple[tuple[float, float], ...]


def resample(
    values: np.ndarray, groups: np.ndarray, resamples: int, seed: int = 0, bounds: tuple[float, float] = DIFFERENCE
) -> Resampled:
    """Runs a cluster bootstrap: samples whole classes, and seeds where there are several.

    Images of one class succeed and fail together, so classes are sampled, with all their images; sampling single
    images would make the spread too narrow. Another seed would have sampled another memory, so seeds are sampled too,
    the same ones for all classes of a bootstrap sample. A bootstrap sample of C classes varies less than C new classes
    would, by sqrt((C - 1) / C), which is corrected; likewise for seeds.

    Where classes show no spread (there is only one, or all have the same mean), images are sampled, and the interval is
    about images of these classes. Where images show none either, all being right for example, no two samples would
    differ, and deviations are sampled from the exact binomial limits instead, for the effective sample size that this
    many images have under so few classes (Korn and Graubard 1998).

    Args:
        values: Per seed and image, shape ``[s, n]``.
        groups: The class of each image, shape ``[n]``.
        resamples: Number of bootstrap samples.
        seed: Of the resampling.
        bounds: The range of the values.
    """
    rng = np.random.default_rng(seed)
    by_seed = np.atleast_2d(values).astype(float)
    by_image = by_seed.mean(0)
    mean = float(by_image.mean())
    _, unit_of = np.unique(groups, return_inverse=True)
    classes, images = unit_of.max() + 1, by_seed.shape[1]
    if _is_flat(by_image, unit_of):
        unit_of = np.arange(images)
    units, sizes = unit_of.max() + 1, np.bincount(unit_of)
    sums = np.stack([np.bincount(unit_of, weights=row) for row in by_seed])
    sampled = rng.integers(0, units, (resamples, units))
    totals = sizes[sampled].sum(1)
    over_seeds = sums.mean(0)[sampled].sum(1) / totals
    if _is_flat(by_image, unit_of):
        deviations = _exact_deviations(mean, _effective_size(images, classes), bounds, rng, resamples)
        spreads = [(float(deviations.var()), np.inf)]
    else:
        deviations = (over_seeds - mean) * np.sqrt(units / (units - 1))
        spreads = [(float(deviations.var()), units - 1)]
    seeds = len(sums)
    if seeds > 1:
        times = rng.multinomial(seeds, [1 / seeds] * seeds, resamples)
        shifts = (np.stack([row[sampled].sum(1) for row in sums], 1) * times).sum(1) / (seeds * totals) - over_seeds
        shifts *= np.sqrt(seeds / (seeds - 1))
        deviations = deviations + shifts
        spreads.append((float(shifts.var()), seeds - 1))
    return Resampled(mean, deviations, tuple(spreads))


def from_samples(mean: float, samples: np.ndarray, images: int, bounds: tuple[float, float]) -> Resampled:
    """Wraps a metric that was computed on bootstrap samples of the images.

    The samples' own mean is subtracted: repeated images make clusters look tighter, so clustering scores of samples
    are above the score of all images, NMI's by so much that percentiles would not contain it.

    Args:
        mean: The metric on all images.
        samples: The metric on the bootstrap samples, shape ``[resamples]``.
        images: Size of each sample.
        bounds: The range of the metric.
    """
    if images < 2 or np.ptp(samples) < 1e-12:
        deviations = _exact_deviations(mean, images, bounds, np.random.default_rng(0), len(samples))
        return Resampled(mean, deviations, ((float(deviations.var()), np.inf),))
    deviations = (samples - samples.mean()) * np.sqrt(images / (images - 1))
    return Resampled(mean, deviations, ((float(deviations.var()), images - 1),))


def _is_flat(values: np.ndarray, unit_of: np.ndarray) -> bool:
    """Whether sampling units show no spread: there is only one, or their means are equal."""
    means = np.bincount(unit_of, weights=values) / np.bincount(unit_of)
    return len(means) == 1 or bool(np.ptp(means) < 1e-12)


def _effective_size(images: int, classes: int) -> float:
    """The effective number of images under this many classes, where the data do not show how classes differ."""
    if min(images, classes) < 2:
        return float(images)
    quantile = (1 + LEVEL) / 2
    return images * float(stdtrit(images - 1, quantile) / stdtrit(classes - 1, quantile)) ** 2


def _exact_deviations(
    mean: float, effective_size: float, bounds: tuple[float, float], rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """Samples deviations whose percentiles are the exact binomial limits of a share that is equal in all images."""
    share = 1 - rng.random(resamples) ** (1 / effective_size)  # of images that could still turn out otherwise
    up = rng.random(resamples) < 0.5
    low, high = bounds
    if mean >= high:
        up[:] = False
    elif mean <= low:
        up[:] = True
    return np.where(up, (high - mean) * share, (low - mean) * share)


def _widening(parts: Sequence[Resampled]) -> float:
    """Student's t quantile over the normal quantile, with Satterthwaite's degrees of freedom over all components."""
    spreads = [spread for part in parts for spread in part.spreads]
    total = sum(variance for variance, _ in spreads)
    squared = sum(variance**2 / freedom for variance, freedom in spreads)
    quantile = (1 + LEVEL) / 2
    return float(stdtrit(total**2 / squared, quantile) / ndtri(quantile)) if squared > 0 else 1.0


def interval(parts: Sequence[Resampled], bounds: tuple[float, float] = DIFFERENCE) -> tuple[float, float, float]:
    """Computes the mean of means with its 95 % interval.

    These are percentiles of the bootstrap samples, widened where few classes, or few seeds that disagree, leave the
    spread itself uncertain.

    Args:
        parts: One, or one per data set, equally weighted.
        bounds: The range of the values; the interval is clipped to it.

    Returns:
        tuple: Mean, lower and upper end.
    """
    mean = float(np.mean([part.mean for part in parts]))
    deviations = _widening(parts) * np.mean([part.deviations for part in parts], axis=0)
    below, above = np.percentile(deviations, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    low, high = bounds
    return mean, float(np.clip(mean + min(below, 0), low, high)), float(np.clip(mean + max(above, 0), low, high))


def bootstrap_interval(
    differences: np.ndarray,
    groups: np.ndarray,
    resamples: int,
    seed: int = 0,
    bounds: tuple[float, float] = DIFFERENCE,
) -> tuple[float, float, float]:
    """Computes a mean with its 95 % interval from the bootstrap of ``resample``.

    Args:
        differences: Paired differences per image, shape ``[n]``; or per seed and image, ``[s, n]``.
        groups: The class of each image, shape ``[n]``.
        resamples: Number of bootstrap samples.
        seed: Of the resampling.
        bounds: The range of the values.

    Returns:
        tuple: Mean, lower and upper end.
    """
    return interval([resample(differences, groups, resamples, seed, bounds)], bounds)
