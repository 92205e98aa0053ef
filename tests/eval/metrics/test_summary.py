"""The summary over seeds and data sets, on hits whose metrics can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics.summary import average_rows, summarise
from tests.eval.by_hand import CLASSES, HITS, hits_by_hand, rows_by_hand


@pytest.fixture
def rows() -> list[dict]:
    return rows_by_hand()


@pytest.fixture
def hits() -> dict:
    return hits_by_hand()


def test_methods_have_mean_and_sample_standard_deviation_over_seeds(hits):
    (part,) = summarise([(hits, CLASSES)], 200)
    assert (part["task"], part["shots"], part["seeds"]) == ("few_shot", 4, 2)
    rar = part["methods"]["rar"]
    assert (rar["mean"], rar["sd"]) == (pytest.approx(0.875), pytest.approx(0.25 / 2**0.5))
    # Two classes and two seeds that disagree hardly constrain the mean.
    assert (rar["low"], rar["high"]) == (0.0, 1.0)
    zero = part["methods"]["clip_zero_shot"]
    assert (zero["mean"], zero["sd"], zero["low"], zero["high"]) == (0.5, 0, 0, 1)
    assert set(part["methods"]) == set(HITS)


def test_gains_are_against_the_best_retriever_and_the_untuned_ranker(hits):
    (part,) = summarise([(hits, CLASSES)], 200)
    gain = part["rar_minus_retriever"]
    assert (gain["reference"], gain["mean"]) == ("clip_zero_shot", pytest.approx(0.375))
    # With two classes, of which one gains nothing, a gain cannot be distinguished from a loss.
    assert gain["low"] < 0 < gain["mean"] < gain["high"] <= 1
    untuned = part["rar_minus_untuned"]
    assert (untuned["reference"], untuned["mean"]) == ("rar_untuned", pytest.approx(0.5))


def test_the_fused_ranker_is_also_compared_with_the_best_retriever(hits):
    """Fused with the retriever it is always right: what zero-shot lacks, 0.5, is the gain."""
    (without,) = summarise([(hits, CLASSES)], 200)
    assert "rar_fused_minus_retriever" not in without
    fused = {(*key[:3], "rar_fused"): np.ones_like(values) for key, values in hits.items() if key[3] == "rar"}
    (part,) = summarise([(hits | fused, CLASSES)], 200)
    gain = part["rar_fused_minus_retriever"]
    assert (gain["reference"], gain["mean"]) == ("clip_zero_shot", pytest.approx(0.5))
    assert part["rar_minus_retriever"] == without["rar_minus_retriever"]


def test_one_seed_has_no_standard_deviation(hits):
    (part,) = summarise([({key: value for key, value in hits.items() if key[2] == 1}, CLASSES)], 50)
    assert part["seeds"] == 1 and {metrics["sd"] for metrics in part["methods"].values()} == {0.0}


def test_tasks_and_shots_are_summarised_separately(hits):
    more = {(task, 8, seed, method): value for (task, _, seed, method), value in hits.items()}
    summary = summarise([(hits | more, CLASSES)], 50)
    assert [(part["task"], part["shots"]) for part in summary] == [("few_shot", 4), ("few_shot", 8)]


def test_each_data_set_counts_equally_whatever_its_size(hits):
    """A second data set of 40 images on which every method is right, and one method that the first lacks."""
    perfect = {key: np.ones(40) for key in hits} | {("few_shot", 4, 1, "rar_fused"): np.ones(40)}
    (part,) = summarise([(hits, CLASSES), (perfect, np.arange(40))], 400)
    assert set(part["methods"]) == set(HITS)
    assert part["methods"]["rar"]["mean"] == pytest.approx((0.875 + 1) / 2)
    # By seed 1 and 1, by seed 2 0.75 and 1, averaged over data sets: 1 and 0.875.
    assert part["methods"]["rar"]["sd"] == pytest.approx(0.125 / 2**0.5)
    gain = part["rar_minus_untuned"]
    assert gain["mean"] == pytest.approx(0.25)
    assert -1 <= gain["low"] < gain["mean"] < gain["high"] <= 1


def test_average_rows_are_means_of_shares_and_sums_of_counts(rows):
    staged = {"top1_given_hit": 0.5, "corrected": 3, "broken": 1, "outcomes": {"ok": 4}}
    first = [row | staged if row["method"] == "rar" else row for row in rows]
    second = [row | {"dataset": "dtd", "n": 10, "top1": 0.0} for row in first if row["method"] != "clip_knn"]
    averages = {(row["method"], row["seed"]): row for row in average_rows([first, second])}
    assert {row["dataset"] for row in averages.values()} == {"average"}
    assert {method for method, _ in averages} == set(HITS) - {"clip_knn"}
    tuned = averages["rar", 2]
    assert (tuned["top1"], tuned["n"], tuned["corrected"], tuned["broken"]) == (pytest.approx(0.375), 14, 6, 2)
    assert (tuned["top1_given_hit"], tuned["outcomes"]) == (0.5, {"ok": 8})
