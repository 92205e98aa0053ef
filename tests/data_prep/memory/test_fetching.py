"""Searches through an index widen until every query has found enough."""

from __future__ import annotations

import numpy as np

from data_prep.memory.fetching import widening_fetches


def test_open_queries_are_searched_again_with_more_entries_up_to_all():
    rounds = [(rows.tolist(), fetch) for rows, fetch in widening_fetches(3, 10, 4, lambda rows: rows != 1)]
    assert rounds == [([0, 1, 2], 4), ([0, 2], 8), ([0, 2], 10)]
    assert [fetch for _, fetch in widening_fetches(2, 3, 4, lambda rows: np.ones(len(rows), bool), 4)] == [3]
    assert list(widening_fetches(0, 10, 4, lambda rows: rows >= 0)) == []
