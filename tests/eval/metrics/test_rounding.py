"""Rounded probabilities are those that formatting them would give."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.core.records import Ranking
from eval.metrics.rounding import round_probabilities, round_significant


@given(st.lists(st.floats(0, 1)), st.integers(1, 7))
@example([0.1234565, 0.12345650000000001, 0.9999995, 9.999995e-5, 1e-15, 9.9999999e-16, 5e-324, 0, 1], 6)
def test_numbers_are_rounded_as_by_formatting(values, digits):
    assert round_significant(np.array(values, float), digits).tolist() == [float(f"{v:.{digits}g}") for v in values]


def test_rankings_keep_their_order_and_length():
    rankings = [Ranking((1, 0), (0.123456789, 0.876543211)), Ranking((0,)), Ranking((0,), (1.0,), "repaired", "text")]
    rounded = round_probabilities(rankings, 4)
    expected = [Ranking((1, 0), (0.1235, 0.8765)), Ranking((0,)), Ranking((0,), (1.0,), "repaired", "text")]
    assert rounded == expected
