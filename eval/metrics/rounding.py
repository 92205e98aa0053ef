"""Rounding of probabilities to significant digits, so that files of them stay small."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import numpy as np

from data_prep.core.records import Ranking

_SMALLEST = 1e-15  # 10**22, the scale of a smaller number with seven digits, is the last power of ten that is exact


def round_significant(values: np.ndarray, digits: int) -> np.ndarray:
    """Rounds numbers as ``float(f"{value:.{digits}g}")`` does.

    Args:
        values: From 0 to 1.
        digits: Significant digits, at most 7.
    """
    magnitudes = np.floor(np.log10(np.maximum(values, _SMALLEST)))
    scales = 10.0 ** (digits - 1 - magnitudes)
    scaled = values * scales
    rounded = np.rint(scaled) / scales
    # Where the scaled number is itself rounded: close to a half, or too small.
    is_unsure = (np.abs(scaled - np.floor(scaled) - 0.5) < 1e-6) | (values <= _SMALLEST)
    template = f"%.{digits}g"
    rounded[is_unsure] = [float(template % value) for value in values[is_unsure].tolist()]
    return rounded


def round_probabilities(rankings: Sequence[Ranking], digits: int) -> list[Ranking]:
    """Rounds the probabilities of rankings to significant digits."""
    rows = [ranking.probabilities for ranking in rankings]
    ends = list(accumulate(map(len, rows), initial=0))
    values = round_significant(np.fromiter(chain.from_iterable(rows), float, ends[-1]), digits).tolist()
    return [
        Ranking(ranking.order, tuple(values[start:end]), ranking.outcome, ranking.reply)
        for ranking, (start, end) in zip(rankings, pairwise(ends), strict=True)
    ]
