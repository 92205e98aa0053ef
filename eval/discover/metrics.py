"""Metrics of guessed names over runs, with bootstrap intervals over images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.clustering.scores import METRICS, Embed, cluster_metrics, contingency_table, name_ids
from eval.metrics.intervals import DIFFERENCE, from_samples, interval
from eval.metrics.published import add_published


@dataclass(frozen=True)
class GuessedNames:
    """One run's guesses on the test images.

    Attributes:
        guesses: Id of the guessed name, shape ``[n]``.
        truths: Id of the true name, shape ``[n]``.
        sizes: Numbers of guessed and of true names.
        cosines: Of guessed and true name as sentences, shape ``[n]``; None without a sentence model.
    """

    guesses: np.ndarray
    truths: np.ndarray
    sizes: tuple[int, int]
    cosines: np.ndarray | None

    @classmethod
    def from_names(cls, predicted: Sequence[str], true: Sequence[str], embed: Embed | None) -> GuessedNames:
        """Numbers the names, and compares them as sentences.

        Args:
            predicted: A name per image.
            true: A name per image.
            embed: From names to unit vectors of shape ``[n, d]``, or None.
        """
        (guessed_names, guesses), (true_names, truths) = name_ids(predicted), name_ids(true)
        sizes = len(guessed_names), len(true_names)
        if embed is None:
            return cls(guesses, truths, sizes, None)
        vectors = embed([*guessed_names, *true_names])
        cosines = (vectors[guesses] * vectors[len(guessed_names) + truths]).sum(1)
        return cls(guesses, truths, sizes, cosines)

    def metrics(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """Computes the metrics on the images at some indices, which may repeat; on all images if None."""
        guesses, truths = (ids if rows is None else ids[rows] for ids in (self.guesses, self.truths))
        metrics = cluster_metrics(contingency_table(guesses, truths, self.sizes))
        if self.cosines is not None:
            metrics["sacc"] = float((self.cosines if rows is None else self.cosines[rows]).mean())
        return {key: metrics[key] for key in METRICS if key in metrics}


def resample_metrics(runs: Sequence[GuessedNames], resamples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Computes the metrics, averaged over runs, on bootstrap samples of the images.

    Images are sampled and not classes: a class sampled twice would be one cluster of twice the size, not a second
    class. All runs are on the same images, and the same seed samples the same ones, so methods can be compared in
    pairs.

    Returns:
        dict[str, np.ndarray]: By metric, shape ``[resamples]`` each.
    """
    rng, images = np.random.default_rng(seed), len(runs[0].truths)
    samples: dict[str, list[float]] = {}
    for _ in range(resamples):
        rows = rng.integers(0, images, images)
        by_run = [run.metrics(rows) for run in runs]
        for key in by_run[0]:
            samples.setdefault(key, []).append(float(np.mean([metrics[key] for metrics in by_run])))
    return {key: np.array(values) for key, values in samples.items()}


def _with_interval(value: float, samples: np.ndarray, images: int, bounds: tuple[float, float]) -> dict[str, float]:
    mean, low, high = interval([from_samples(value, samples, images, bounds)], bounds)
    return {"mean": mean, "low": low, "high": high}


def _gains(means: dict, samples: dict, method: str, reference: str, images: int) -> dict[str, dict]:
    """Computes one method's gain over another by metric, with intervals over the same bootstrap samples."""
    return {
        key: _with_interval(
            means[method][key] - means[reference][key], values - samples[reference][key], images, DIFFERENCE
        )
        for key, values in samples[method].items()
    }


def score_predictions(lines: Sequence[dict], dataset: str, embed: Embed | None, resamples: int) -> dict:
    """Computes all metrics of predictions.

    Args:
        lines: Of ``predictions.jsonl``: ``method``, ``seed``, ``predicted`` and ``true``.
        dataset: Its name, for the paper's results.
        embed: For sACC, or None.
        resamples: Number of bootstrap samples.

    Returns:
        dict: ``rows``, one per method and seed, metrics as shares; ``summary`` by method: mean, sd over seeds, and 95 %
        interval over images of the mean; ``gains`` of ``rar``; and the comparison with ``published`` results.
    """
    runs: dict[str, dict[int, list[dict]]] = {}
    for line in lines:
        runs.setdefault(line["method"], {}).setdefault(line["seed"], []).append(line)
    rows, summary, means, samples = [], {}, {}, {}
    for method, by_seed in runs.items():
        names = [[[line[side] for line in of_seed] for side in ("predicted", "true")] for of_seed in by_seed.values()]
        guessed = [GuessedNames.from_names(predicted, true, embed) for predicted, true in names]
        metrics = [run.metrics() for run in guessed]
        for seed, (predicted, true), of_seed in zip(by_seed, names, metrics, strict=True):
            sizes = {"n": len(true), "guessed_names": len(set(predicted)), "true_names": len(set(true))}
            outcomes = Counter(line["outcome"] for line in by_seed[seed] if "outcome" in line)
            rows.append({"task": "fine_grained", "dataset": dataset, "seed": seed, "method": method} | sizes | of_seed)
            rows[-1] |= {"outcomes": dict(sorted(outcomes.items()))} if outcomes else {}
        means[method] = {key: float(np.mean([of_seed[key] for of_seed in metrics])) for key in metrics[0]}
        samples[method] = resample_metrics(guessed, resamples)
        images = len(guessed[0].truths)
        summary[method] = {
            key: _with_interval(value, samples[method][key], images, (min(value, 0.0), 1.0))
            | {"sd": float(np.std([of_seed[key] for of_seed in metrics], ddof=1)) if len(metrics) > 1 else 0.0}
            for key, value in means[method].items()
        }
    retriever = next(method for method in runs if method.startswith("clip_") and method != "clip_true_names")
    gains = {
        f"rar_minus_{reference}": _gains(means, samples, "rar", reference, images)
        for reference in (retriever, "rar_untuned")
    }
    percent = {key: 100 * value for key, value in means["rar"].items()}
    measured = {"task": "fine_grained", "dataset": dataset, "method": "RAR", "figures": percent}
    return {"rows": rows, "summary": summary, "gains": gains, "published": add_published([measured])}
