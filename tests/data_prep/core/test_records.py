"""Shared records: the position of the true class among the candidates."""

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.records import Candidate, RankingExample


@given(st.lists(st.integers(0, 9), unique=True, max_size=6), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_truth_is_the_position_of_the_label_or_none(labels, label):
    example = RankingExample("key", label, tuple(Candidate(n, str(n), 0.0) for n in labels))
    if label in labels:
        assert example.candidates[example.truth].label == label
    else:
        assert example.truth is None
