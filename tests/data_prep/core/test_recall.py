"""Recall at k: the share of queries whose true class is among the first k."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.recall import recall_at, true_ranks

rankings = st.lists(st.tuples(st.permutations(range(6)).map(lambda row: row[:4]), st.integers(0, 5)), min_size=1)


@given(rankings, st.integers(1, 4))
def test_recall_counts_the_queries_whose_class_is_among_the_first_k(pairs, k):
    rows, truths = zip(*pairs, strict=True)
    expected = sum(truth in row[:k] for row, truth in pairs) / len(pairs)
    assert recall_at(true_ranks(rows, truths, 4), k) == expected


def test_a_query_without_a_row_is_an_error():
    with pytest.raises(ValueError):
        true_ranks([[1, 2]], [1, 2], 2)
