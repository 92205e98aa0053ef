"""Bootstrap confidence intervals of means over images, classes and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

LEVEL = 0.95
"""The share of intervals that are to hold the truth."""

SHARE = (0.0, 1.0)
"""The range of a share of images."""

DIFFERENCE = (-1.0, 1.0)
"""The range of a difference of two shares."""


@dataclass(frozen=True)
class Resampled:
    """A mean and how it varies between bootstrap samples.

    Attributes:
        mean: Of the data.
        deviations: From it, of the samples' means, shape ``[resamples]``; the bootstrap's bias for few groups is
            corrected.
        spreads: What they are made of: each a variance, and the degrees of freedom that it was estimated with.
    """

    mean: float
    deviations: np.ndarray
    spreads: tuple[tuple[float, float], ...]


def resample(
    values: np.ndarray, groups: np.ndarray, resamples: int, seed: int = 0, bounds: tuple[float, float] = DIFFERENCE
) -> Resampled:
    """Draws bootstrap samples of whole groups, and of seeds where there are several.

    Images of one class succeed and fail together, so classes are drawn, with all their images; drawing single images
    would make the spread too narrow. Another memory would have been drawn by another seed, so seeds are drawn too, for
    all classes of a sample alike. A sample of C classes varies less than C new ones would, by sqrt((C - 1) / C), which
    is corrected; seeds likewise.

    Where classes show no spread (there is one, or all have the same mean), images are drawn, and the interval is about
    images of these classes. Where images show none either, all being right for example, no sample would differ, and
    the exact binomial limits are drawn from instead, on as many images as are worth their number under so few classes
    (Korn and Graubard 1998).

    Args:
        values: Per seed and image, shape ``[s, n]``.
        groups: The class of each image, shape ``[n]``.
        resamples: How many.
        seed: Of the resampling.
        bounds: The values' range.
    """
    rng = np.random.default_rng(seed)
    by_seed = np.atleast_2d(values).astype(float)
    by_image = by_seed.mean(0)
    mean = float(by_image.mean())
    _, members = np.unique(groups, return_inverse=True)
    classes, count = members.max() + 1, by_seed.shape[1]
    if _is_flat(by_image, members):
        members = np.arange(count)
    units, sizes = members.max() + 1, np.bincount(members)
    sums = np.stack([np.bincount(members, weights=row) for row in by_seed])
    drawn = rng.integers(0, units, (resamples, units))
    totals = sizes[drawn].sum(1)
    over_seeds = sums.mean(0)[drawn].sum(1) / totals
    if _is_flat(by_image, members):
        deviations = _exact(mean, _worth(count, classes), bounds, rng, resamples)
        spreads = [(float(deviations.var()), np.inf)]
    else:
        deviations = (over_seeds - mean) * np.sqrt(units / (units - 1))
        spreads = [(float(deviations.var()), units - 1)]
    seeds = len(sums)
    if seeds > 1:
        times = rng.multinomial(seeds, [1 / seeds] * seeds, resamples)
        shifted = (np.stack([row[drawn].sum(1) for row in sums], 1) * times).sum(1) / (seeds * totals) - over_seeds
        shifted *= np.sqrt(seeds / (seeds - 1))
        deviations = deviations + shifted
        spreads.append((float(shifted.var()), seeds - 1))
    return Resampled(mean, deviations, tuple(spreads))


def from_samples(mean: float, samples: np.ndarray, images: int, bounds: tuple[float, float]) -> Resampled:
    """A metric that was computed on bootstrap samples of the images.

    The samples' own mean is taken out: repeated images make clusters look tighter, so that clustering scores of samples
    lie above the score of all images, NMI's so far that percentiles would not hold it.

    Args:
        mean: The metric of all images.
        samples: Of the samples, shape ``[resamples]``.
        images: How many were drawn for each.
        bounds: The metric's range.
    """
    if images < 2 or np.ptp(samples) < 1e-12:
        deviations = _exact(mean, images, bounds, np.random.default_rng(0), len(samples))
        return Resampled(mean, deviations, ((float(deviations.var()), np.inf),))
    deviations = (samples - samples.mean()) * np.sqrt(images / (images - 1))
    return Resampled(mean, deviations, ((float(deviations.var()), images - 1),))


def _is_flat(values: np.ndarray, members: np.ndarray) -> bool:
    """Whether groups show no spread: there is one, or their means are equal."""
    means = np.bincount(members, weights=values) / np.bincount(members)
    return len(means) == 1 or bool(np.ptp(means) < 1e-12)


def _worth(count: int, classes: int) -> float:
    """The effective number of images of so many classes where nothing shows how much classes differ."""
    if min(count, classes) < 2:
        return float(count)
    quantile = (1 + LEVEL) / 2
    return count * float(t.ppf(quantile, count - 1) / t.ppf(quantile, classes - 1)) ** 2


def _exact(
    mean: float, worth: float, bounds: tuple[float, float], rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """Deviations whose percentiles are the exact binomial limits of a share that was the same in every image."""
    share = 1 - rng.random(resamples) ** (1 / worth)  # of images that could still be otherwise
    up = rng.random(resamples) < 0.5
    low, high = bounds
    if mean >= high:
        up[:] = False
    elif mean <= low:
        up[:] = True
    return np.where(up, (high - mean) * share, (low - mean) * share)


def _widening(parts: Sequence[Resampled]) -> float:
    """Student's quantile over the normal one, with Satterthwaite's degrees of freedom over all spreads."""
    spreads = [spread for part in parts for spread in part.spreads]
    total = sum(variance for variance, _ in spreads)
    doubt = sum(variance**2 / freedom for variance, freedom in spreads)
    quantile = (1 + LEVEL) / 2
    return float(t.ppf(quantile, total**2 / doubt) / norm.ppf(quantile)) if doubt > 0 else 1.0


def interval(parts: Sequence[Resampled], bounds: tuple[float, float] = DIFFERENCE) -> tuple[float, float, float]:
    """The mean of means with its 95 % interval.

    The percentiles of bootstrap samples, made wider where few classes, or few seeds that disagree, say little about how
    wide they should be.

    Args:
        parts: One, or one a data set, which count alike.
        bounds: The range of the values, which the interval keeps to.

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
    """A mean with its 95 % interval, as ``resample`` draws.

    Args:
        differences: Paired differences per image, shape ``[n]``; or per seed and image, ``[s, n]``.
        groups: The class of each image, shape ``[n]``.
        resamples: How many.
        seed: Of the resampling.
        bounds: The values' range.

    Returns:
        tuple: Mean, lower and upper end.
    """
    return interval([resample(differences, groups, resamples, seed, bounds)], bounds)
