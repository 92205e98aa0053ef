"""The ranking that is used: number of candidates, their source, orders and fusion, chosen on validation images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data_prep.core.records import Ranking
from data_prep.settings import EvalArgs, Recipe
from eval.calibration.fusion import Fusion, fit_fusion

METHODS = ("rar_fused", "rar", "retriever")
"""What may be used, in the order of preference among equals."""

_GRID = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200)


def candidate_counts(k_max: int) -> list[int]:
    """Returns the numbers of candidates that are compared, up to ``k_max`` and including it."""
    return [*(k for k in _GRID if k < k_max), k_max]


@dataclass(frozen=True)
class Choice:
    """What is used with one kind of memory.

    Attributes:
        method: ``rar_fused``, ``rar``, or ``retriever`` where ranking does not pay.
        source: Where candidates come from: ``image``, ``name``, ``fused``, or an adapter.
        k: Number of candidates.
        permutations: Number of orders in which they are shown.
        reason: Why, in words.
        images: Number of validation images.
        curve: Accuracy on them by ``k``: ``recall``, ``rar``, ``rar_fused``, ``retriever`` and ``images_per_s``.
        sources: ``recall`` of the candidates by ``source`` and the retriever's top-1.
        fusion: The fitted fusion; None in the modes that write a list.
        tuned_classes: Names of the classes that were tuned on, where validation images were also of others.
        adapters: The hyperparameters of each adapter that is fitted to the memory.
    """

    method: str
    source: str
    k: int
    permutations: int
    reason: str
    images: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    fusion: Fusion | None = None
    tuned_classes: list[str] = field(default_factory=list)
    adapters: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Choice:
        """Restores a choice from its dictionary."""
        fusion = values["fusion"] and Fusion(**values["fusion"])
        return cls(**{**values, "fusion": fusion})


def fixed_choice(args: EvalArgs, source: str) -> Choice:
    """Makes the choice of settings that leave nothing open."""
    return Choice("rar", source, args.fixed_k, args.fixed_permutations, "as set")


def apply_settings(recipe: Recipe, stored: Choice | None, source: str) -> Choice:
    """Applies the settings that are not ``auto`` to a stored choice, or makes one where none is stored.

    Args:
        recipe: ``eval.k``, ``candidates``, ``permutations`` and ``fusion`` take precedence.
        stored: What was chosen on validation images, or None.
        source: Source of the candidates where neither setting nor choice says.
    """
    args = recipe.eval
    source = source if args.candidates == "auto" or source == "name" else args.candidates
    if stored is None:
        return fixed_choice(args, source)
    choice = replace(
        stored,
        source=stored.source if args.candidates == "auto" else source,
        k=stored.k if args.k == "auto" else args.fixed_k,
        permutations=stored.permutations if args.permutations == "auto" else args.fixed_permutations,
    )
    return choice if recipe.fuses else replace(choice, fusion=None, method="rar")


@dataclass(frozen=True)
class Trial:
    """One number of candidates and orders, tried on validation images.

    Attributes:
        k: Number of candidates.
        permutations: Number of orders.
        rankings: The tuned ranker's, per image.
        similarities: Of the candidates, shape ``[n, k, 2]``, or with a third column of the adapter's scores.
        truths: The true candidate's position per image, or None.
        images_per_s: The ranker's speed; None where it was not measured.
    """

    k: int
    permutations: int
    rankings: Sequence[Ranking]
    similarities: np.ndarray
    truths: Sequence[int | None]
    images_per_s: float | None = None


def choose_source(ranks: Mapping[str, np.ndarray], k_max: int) -> tuple[str, list[dict[str, Any]]]:
    """Chooses the source whose candidates contain the true class most often, on average over 1 to ``k_max`` candidates.

    Args:
        ranks: Position of the true class per validation image, counted from 0, by source; ``k_max`` or more where it
            is missing.
        k_max: Largest number of candidates.

    Returns:
        tuple: The source (ties: the first one), and a row per source with ``recall`` at ``k``, which is ``k_max``, and
        ``retriever``, its top-1.
    """
    rows = [
        {"source": source, "k": k_max, "recall": float((rank < k_max).mean()), "retriever": float((rank < 1).mean())}
        for source, rank in ranks.items()
    ]
    area = {source: float(np.maximum(k_max - rank, 0).mean()) for source, rank in ranks.items()}
    return max(area, key=area.__getitem__), rows


def _share(first: Iterable[int], truths: Sequence[int | None]) -> float:
    """Computes top-1 from the position of each image's first candidate."""
    return float(np.mean([position == truth for position, truth in zip(first, truths, strict=True)]))


def _score(trial: Trial, fusion: Fusion | None) -> dict[str, Any]:
    """Computes a trial's point of the curve."""
    point: dict[str, Any] = {
        "k": trial.k,
        "permutations": trial.permutations,
        "recall": float(np.mean([truth is not None for truth in trial.truths])),
        "rar": _share((ranking.order[0] for ranking in trial.rankings), trial.truths),
        "rar_fused": None,
        "retriever": None,
        "images_per_s": trial.images_per_s,
    }
    if fusion:
        retrieved, fused = fusion.first(trial.rankings, trial.similarities)
        point["rar_fused"], point["retriever"] = _share(fused, trial.truths), _share(retrieved, trial.truths)
    return point


def choose(
    source: str, trials: Sequence[Trial], images: int, fuses: bool, gate: tuple[str, float], sources: list[dict]
) -> Choice:
    """Chooses number of candidates, orders and method by top-1 on validation images.

    Of equally good ones the fused ranker goes before the ranker alone, and that before the retriever; then fewer
    candidates go before more, and one order before two.

    Args:
        source: The candidates' source.
        trials: At least one.
        images: Number of distinct validation images.
        fuses: Whether fusion is on.
        gate: The gate's measure, and the top-1 that it may cost.
        sources: From ``choose_source``; empty where the source was given.
    """
    ordered = sorted(trials, key=lambda trial: (trial.k, trial.permutations))
    fusions = [
        fit_fusion(trial.rankings, trial.similarities, trial.truths, *gate) if fuses else None for trial in ordered
    ]
    points = [_score(*pair) for pair in zip(ordered, fusions, strict=True)]
    pairs = [(method, index) for method in METHODS for index, point in enumerate(points) if point[method] is not None]
    method, best = max(pairs, key=lambda pair: points[pair[1]][pair[0]])  # the first of equals
    point, trial = points[best], ordered[best]
    others = ", ".join(
        f"{name} {100 * point[name]:.1f}" for name in METHODS if name != method and point[name] is not None
    )
    against = f" (at this k {others})" if others else ""
    reason = f"top-1 {100 * point[method]:.1f} % on {images} validation images, the highest{against}"
    curve = [p for p in points if p["permutations"] == trial.permutations]
    return Choice(method, source, trial.k, trial.permutations, reason, images, curve, sources, fusions[best])
