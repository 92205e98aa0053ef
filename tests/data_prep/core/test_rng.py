"""Seeded random numbers: reproducible for the same purpose, and uniform."""

from __future__ import annotations

import numpy as np
from scipy.stats import chisquare

from data_prep.core.records import Candidate, RankingExample
from data_prep.core.rng import rng_for, shuffle_candidates


def test_shuffles_are_uniform_over_positions_whatever_the_position_before():
    """Chi-square test over 30,000 shuffles of each candidate's new position, hence that of the true class."""
    count, position_counts = 5, np.zeros((5, 5), int)
    candidates = tuple(Candidate(n, str(n), 0.0) for n in range(count))
    for key in range(10_000):
        for epoch in range(3):
            shuffled = shuffle_candidates(RankingExample(f"sample-{key:05d}-image", 0, candidates), 0, epoch)
            for position, candidate in enumerate(shuffled.candidates):
                position_counts[candidate.label, position] += 1
    for row in position_counts:
        assert chisquare(row).pvalue > 1e-4
    assert position_counts.sum() == 150_000


def test_a_generator_depends_on_all_its_parts_and_nothing_else():
    draws = {
        rng_for(*parts).integers(2**60) for parts in [(0, "k", "a"), (1, "k", "a"), (0, "easy", "a"), (0, "k", "b")]
    }
    assert len(draws) == 4
    np.random.default_rng(0).random()
    assert rng_for(0, "k", "a").integers(2**60) in draws
