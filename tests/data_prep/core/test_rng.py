"""Lots: the same for the same purpose, and fair."""

from __future__ import annotations

import numpy as np
from scipy.stats import chisquare

from data_prep.core.records import Candidate, RankingExample
from data_prep.core.rng import rng_for, shuffle_candidates


def test_shuffles_are_uniform_over_positions_whatever_the_place_before():
    """Chi-square over 30,000 shuffles: the place that each candidate lands on, and so the truth's."""
    count, landed = 5, np.zeros((5, 5), int)
    found = tuple(Candidate(n, str(n), 0.0) for n in range(count))
    for key in range(10_000):
        for epoch in range(3):
            shown = shuffle_candidates(RankingExample(f"sample-{key:05d}-image", 0, found), 0, epoch)
            for place, candidate in enumerate(shown.candidates):
                landed[candidate.label, place] += 1
    for row in landed:
        assert chisquare(row).pvalue > 1e-4
    assert landed.sum() == 150_000


def test_a_lot_depends_on_all_its_parts_and_nothing_else():
    draws = {
        rng_for(*parts).integers(2**60) for parts in [(0, "k", "a"), (1, "k", "a"), (0, "easy", "a"), (0, "k", "b")]
    }
    assert len(draws) == 4
    np.random.default_rng(0).random()
    assert rng_for(0, "k", "a").integers(2**60) in draws
