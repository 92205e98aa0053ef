"""Results of others: each has a source, and those that follow from others do."""

import numpy as np
import pytest

from data_prep.datasets import FEW_SHOT, FINE_GRAINED
from eval.metrics.base_to_new import harmonic_mean
from eval.metrics.elsewhere import ELSEWHERE, elsewhere, is_cocoop_average


def test_harmonic_means_follow_from_their_halves():
    rows = [row for row in ELSEWHERE if row.task == "base_to_new"]
    assert len(rows) == 11
    for row in rows:
        base, new, h = row.metrics.values()
        assert 100 * harmonic_mean(base / 100, new / 100) == pytest.approx(h, abs=0.011), row.method


def test_averages_are_the_means_of_their_rows():
    by_method: dict[str, dict[str, dict]] = {}
    for row in ELSEWHERE:
        if row.task == "choice":
            by_method.setdefault(row.method, {})[row.dataset] = row.metrics
    complete = {method: rows for method, rows in by_method.items() if len(rows) > 1}
    assert len(complete) == 7
    for method, rows in complete.items():
        average = rows.pop("average")
        assert len(rows) == 6
        for half in ("seen", "unseen"):
            assert np.mean([row[half] for row in rows.values()]) == pytest.approx(average[half], abs=0.011), method


def test_every_result_has_a_source_and_a_known_data_set():
    names = {"average", *FEW_SHOT, *FINE_GRAINED}
    assert len({(row.task, row.dataset, row.method, row.shots) for row in ELSEWHERE}) == len(ELSEWHERE)
    for row in ELSEWHERE:
        assert row.source and row.dataset in names and all(0 < value < 100 for value in row.metrics.values())
        assert row.source in row.text and ("quoted in" in row.text) == row.secondary


def test_results_are_found_by_protocol():
    assert [row.method for row in elsewhere("few_shot", "average", 8)] == ["CLIP + KNN", "RAR"]
    assert elsewhere("few_shot", "average", 16) == []
    assert {row.method for row in elsewhere("fine_grained", "pets37")} == {"FiNDR"}
    assert is_cocoop_average(set(FEW_SHOT) - {"raf_db"}) and not is_cocoop_average(["dtd"])
