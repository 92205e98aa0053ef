"""Metrics of predictions: the share of lists whose best two candidates tie."""

from __future__ import annotations

import pytest

from eval.report.results import MetricsAccumulator

METADATA = {"dataset": "armory", "split": "val", "mode": "letters", "k": 3, "bootstrap": 0}


def make_line(key: str, probabilities: list[float]) -> dict:
    names = ["a", "b", "c"][: max(1, len(probabilities))]
    head = {"key": key, "task": "few_shot", "shots": 4, "seed": 1, "method": "rar", "truth": "a", "ranking": names}
    candidates = [{"name": name, "score": 0.0} for name in names]
    return head | {"candidates": candidates, "probabilities": probabilities, "outcome": "ok"}


@pytest.mark.parametrize(
    ("lists", "tied"),
    [
        ([[0.4, 0.4, 0.2], [0.5, 0.3, 0.2]], 0.5),
        ([[0.4, 0.3, 0.3], [1.0]], 0.0),  # a tie below the best two, and a single candidate
        ([[], []], None),  # a written list has no probabilities
    ],
)
def test_the_share_of_ties_for_the_first_place_is_reported(lists, tied):
    metrics = MetricsAccumulator(METADATA)
    for index, probabilities in enumerate(lists):
        metrics.add(make_line(str(index), probabilities))
    (row,) = metrics.rows()
    assert row.get("tied") == tied
