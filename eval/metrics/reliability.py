"""Calibration of predicted probabilities: reliability bins and the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 15
"""Number of bins of Guo et al. 2017 (arXiv 1706.04599)."""


def reliability(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> dict:
    """Computes a reliability diagram and the expected calibration error (Guo et al. 2017, equations 2, 3 and 5).

    Args:
        confidences: Probability of the top-1 class per image, 0 to 1; shape ``[n]``.
        correct: Whether it is the true class; shape ``[n]``.
        bins: Number of bins of equal width, each with its upper edge.

    Returns:
        dict: ``ece``, the mean over images of the gap between a bin's confidence and its accuracy, 0 to 1 (None without
        images); and ``bins``, from low to high without empty ones: mean ``confidence``, ``accuracy`` and ``count``.

    Raises:
        ValueError: The arrays differ in length, or a confidence is not between 0 and 1.
    """
    probabilities, hits = np.array(confidences, float), np.array(correct, bool)
    if probabilities.shape != hits.shape:
        raise ValueError(f"{len(probabilities)} confidences, but {len(hits)} images")
    # A softmax in float32 may end just above 1.
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-5)).all():
        raise ValueError("confidences must be between 0 and 1")
    bin_of = np.digitize(probabilities, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    rows = [
        {
            "confidence": float(probabilities[bin_of == index].mean()),
            "accuracy": float(hits[bin_of == index].mean()),
            "count": int((bin_of == index).sum()),
        }
        for index in np.unique(bin_of)
    ]
    gaps = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    return {"ece": gaps / len(hits) if len(hits) else None, "bins": rows}
