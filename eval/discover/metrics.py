"""Figures of guessed names over runs, with intervals: the same as ``eval.clustering``'s, fast enough to resample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from eval.clustering.scores import Embed
from eval.metrics.intervals import DIFFERENCE, from_samples, interval
from eval.metrics.published import add_published

FIGURES = ("cacc", "sacc", "nmi", "ari")


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _pairs(counts: np.ndarray) -> float:
    return float((counts * (counts - 1.0)).sum() / 2)


def cluster_metrics(counts: np.ndarray) -> dict[str, float]:
    """cACC, NMI and ARI of a table of images by guessed and true name.

    Args:
        counts: Images, int, shape ``[guessed, true]``; rows and columns without images have no part in the figures.
    """
    total = counts.sum()
    rows, columns = linear_sum_assignment(counts, maximize=True)
    own, other = _entropy(counts.sum(1)), _entropy(counts.sum(0))
    shared = own + other - _entropy(counts.ravel())
    together, by_guess, by_truth = _pairs(counts), _pairs(counts.sum(1)), _pairs(counts.sum(0))
    expected = by_guess * by_truth / max(total * (total - 1) / 2, 1)
    most = (by_guess + by_truth) / 2
    return {
        "cacc": float(counts[rows, columns].sum() / total),
        "nmi": max(shared / ((own + other) / 2), 0.0) if own + other else 1.0,
        "ari": (together - expected) / (most - expected) if most != expected else 1.0,
    }


@dataclass(frozen=True)
class Named:
    """One run's guesses on the test images.

    Attributes:
        guesses: Number of the guessed name, shape ``[n]``.
        truths: Number of the true name, shape ``[n]``.
        cosines: Of guessed and true name as sentences, shape ``[n]``; None without a sentence model.
    """

    guesses: np.ndarray
    truths: np.ndarray
    cosines: np.ndarray | None

    @classmethod
    def of(cls, predicted: Sequence[str], true: Sequence[str], embed: Embed | None) -> Named:
        """Numbers the names, and compares them as sentences.

        Args:
            predicted: A name per image.
            true: A name per image.
            embed: From names to unit vectors of shape ``[n, d]``, or None.
        """
        guessed, guesses = np.unique(np.asarray(predicted, str), return_inverse=True)
        known, truths = np.unique(np.asarray(true, str), return_inverse=True)
        if embed is None:
            return cls(guesses, truths, None)
        vectors = embed([*guessed.tolist(), *known.tolist()])
        cosines = (vectors[guesses] * vectors[len(guessed) + truths]).sum(1)
        return cls(guesses, truths, cosines)

    def metrics(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """The figures on some images, each as often as it stands there; on all if None."""
        guesses, truths = (ids if rows is None else ids[rows] for ids in (self.guesses, self.truths))
        sizes = int(self.guesses.max()) + 1, int(self.truths.max()) + 1
        counts = np.bincount(guesses * sizes[1] + truths, minlength=sizes[0] * sizes[1]).reshape(sizes)
        found = cluster_metrics(counts)
        if self.cosines is not None:
            found["sacc"] = float((self.cosines if rows is None else self.cosines[rows]).mean())
        return {key: found[key] for key in FIGURES if key in found}


def resample_metrics(runs: Sequence[Named], resamples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The figures, averaged over runs, on bootstrap samples of the images.

    Images are drawn and not classes: a class drawn twice would be one cluster of twice the size, no second class. All
    runs are of the same images, and the same seed draws the same ones, so that methods can be compared in pairs.

    Returns:
        dict[str, np.ndarray]: Shape ``[resamples]`` each.
    """
    rng, images = np.random.default_rng(seed), len(runs[0].truths)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        rows = rng.integers(0, images, images)
        metrics = [run.metrics(rows) for run in runs]
        for key in metrics[0]:
            drawn.setdefault(key, []).append(float(np.mean([own[key] for own in metrics])))
    return {key: np.array(values) for key, values in drawn.items()}


def _with_interval(value: float, samples: np.ndarray, images: int, bounds: tuple[float, float]) -> dict[str, float]:
    mean, low, high = interval([from_samples(value, samples, images, bounds)], bounds)
    return {"mean": mean, "low": low, "high": high}


def _gains(means: dict, drawn: dict, of: str, reference: str, images: int) -> dict[str, dict]:
    """What one method's figures are above another's, each with its interval over the same samples of images."""
    return {
        key: _with_interval(means[of][key] - means[reference][key], values - drawn[reference][key], images, DIFFERENCE)
        for key, values in drawn[of].items()
    }


def score_predictions(lines: Sequence[dict], dataset: str, embed: Embed | None, resamples: int) -> dict:
    """All figures of predictions.

    Args:
        lines: Of ``predictions.jsonl``: ``method``, ``seed``, ``predicted`` and ``true``.
        dataset: Its name, by which the paper's figures are found.
        embed: For sACC, or None.
        resamples: Of the bootstrap.

    Returns:
        dict: ``rows``, one per method and seed, figures as shares; ``summary`` by method: mean, sd over seeds, and 95 %
        interval over images of the mean; ``gains`` of ``rar``; and ``published`` figures beside.
    """
    runs: dict[str, dict[int, list[dict]]] = {}
    for line in lines:
        runs.setdefault(line["method"], {}).setdefault(line["seed"], []).append(line)
    rows, summary, means, drawn = [], {}, {}, {}
    for method, by_seed in runs.items():
        names = [[[line[side] for line in own] for side in ("predicted", "true")] for own in by_seed.values()]
        named = [Named.of(predicted, true, embed) for predicted, true in names]
        metrics = [run.metrics() for run in named]
        for seed, (predicted, true), own in zip(by_seed, names, metrics, strict=True):
            sizes = {"n": len(true), "guessed_names": len(set(predicted)), "true_names": len(set(true))}
            outcomes = Counter(line["outcome"] for line in by_seed[seed] if "outcome" in line)
            rows.append({"task": "fine_grained", "dataset": dataset, "seed": seed, "method": method} | sizes | own)
            rows[-1] |= {"outcomes": dict(sorted(outcomes.items()))} if outcomes else {}
        means[method] = {key: float(np.mean([own[key] for own in metrics])) for key in metrics[0]}
        drawn[method] = resample_metrics(named, resamples)
        images = len(named[0].truths)
        summary[method] = {
            key: _with_interval(value, drawn[method][key], images, (min(value, 0.0), 1.0))
            | {"sd": float(np.std([own[key] for own in metrics], ddof=1)) if len(metrics) > 1 else 0.0}
            for key, value in means[method].items()
        }
    retriever = next(method for method in runs if method.startswith("clip_") and method != "clip_true_names")
    gains = {f"rar_minus_{other}": _gains(means, drawn, "rar", other, images) for other in (retriever, "rar_untuned")}
    percent = {key: 100 * value for key, value in means["rar"].items()}
    measured = {"task": "fine_grained", "dataset": dataset, "method": "RAR", "figures": percent}
    return {"rows": rows, "summary": summary, "gains": gains, "published": add_published([measured])}
