"""Reliability bins and the expected calibration error: against naive counting, and on cases known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.reliability import reliability

predictions = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50)


@given(predictions, st.integers(1, 20))
def test_the_bins_hold_every_image_once_in_order_of_confidence(pairs, bins):
    confidences, correct = zip(*pairs, strict=True)
    rows = reliability(confidences, correct, bins)["bins"]
    counts = np.array([row["count"] for row in rows])
    assert counts.sum() == len(pairs) and counts.min() > 0 and len(rows) <= bins
    assert counts @ [row["confidence"] for row in rows] == pytest.approx(sum(confidences))
    assert counts @ [row["accuracy"] for row in rows] == pytest.approx(sum(correct))
    assert [row["confidence"] for row in rows] == sorted(row["confidence"] for row in rows)


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=50))
def test_the_error_is_the_mean_gap_between_confidence_and_accuracy_over_images(pairs):
    by_bin: dict[int, list[tuple[float, bool]]] = {}
    for thousandths, hit in pairs:
        by_bin.setdefault(max(1, math.ceil(thousandths * 15 / 1000)), []).append((thousandths / 1000, hit))
    gaps = [abs(sum(c for c, _ in members) - sum(h for _, h in members)) for members in by_bin.values()]
    confidences, correct = [t / 1000 for t, _ in pairs], [hit for _, hit in pairs]
    assert reliability(confidences, correct)["ece"] == pytest.approx(sum(gaps) / len(pairs))


@given(predictions, st.randoms())
def test_the_order_of_the_images_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    one, two = (reliability(*zip(*order, strict=True)) for order in (pairs, shuffled))
    assert one["ece"] == pytest.approx(two["ece"])
    assert [row["count"] for row in one["bins"]] == [row["count"] for row in two["bins"]]


@given(predictions)
def test_with_one_bin_the_error_is_the_gap_between_mean_confidence_and_accuracy(pairs):
    confidences, correct = zip(*pairs, strict=True)
    assert reliability(confidences, correct, 1)["ece"] == pytest.approx(abs(np.mean(confidences) - np.mean(correct)))


def test_known_cases():
    assert reliability([0.75] * 4, [True, True, True, False])["ece"] == pytest.approx(0)
    assert reliability([1.0, 1.0], [False, False])["ece"] == pytest.approx(1)
    assert reliability([0.0, 1.0], [False, True])["ece"] == pytest.approx(0)
    assert len(reliability([0.2, 1 / 3, 0.4], [True] * 3, 3)["bins"]) == 2  # a bin has its upper edge
    assert reliability([], []) == {"ece": None, "bins": []}


def test_a_float32_softmax_may_end_above_one():
    assert reliability([np.float32(1.0000002)], [True])["bins"][0]["count"] == 1


@pytest.mark.parametrize(("confidences", "correct"), [([1.5], [True]), ([-0.1], [True]), ([np.nan], [True])])
def test_what_is_no_probability_is_refused(confidences, correct):
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability(confidences, correct)


def test_arrays_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="2 confidences, but 1 images"):
        reliability([0.5, 0.5], [True])
