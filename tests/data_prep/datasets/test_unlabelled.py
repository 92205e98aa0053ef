"""Unlabelled images: how many of a class, the same for a seed, and nothing left of their labels."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.records import Sample
from data_prep.datasets.unlabelled import UNLABELLED, draw_unlabelled
from data_prep.settings import DiscoverArgs


def pool(sizes: list[int]) -> list[Sample]:
    return [
        Sample(f"{label}-{n}", f"{label}/{n}.png", label, f"{label:02d}{n:02d}")
        for label, size in enumerate(sizes)
        for n in range(size)
    ]


def drawn_of(drawn: list[Sample]) -> Counter[int]:
    """Images by the class that only the test knows."""
    return Counter(int(sample.key.split("-")[0]) for sample in drawn)


sizes = st.lists(st.integers(1, 14), min_size=1, max_size=8)


@given(sizes, st.integers(1, 4), st.integers(0, 5), st.sampled_from(["balanced", "zipf", "uniform"]))
def test_draws_are_seeded_unlabelled_and_as_large_as_asked(sizes, images, seed, how):
    samples, args = pool(sizes), DiscoverArgs(images=images, draw=how)
    drawn = draw_unlabelled(samples, args, seed)
    assert drawn == draw_unlabelled(samples, args, seed)
    assert {sample.label for sample in drawn} == {UNLABELLED}
    assert {s.key for s in drawn} <= {s.key for s in samples} and len({s.key for s in drawn}) == len(drawn)
    assert [s.digest for s in drawn] == sorted(s.digest for s in drawn)
    counts = drawn_of(drawn)
    if how == "balanced":
        assert counts == {label: min(images, size) for label, size in enumerate(sizes)}
    elif how == "zipf":
        assert all(1 <= counts[label] <= min(args.most, size) for label, size in enumerate(sizes))
    else:
        assert len(drawn) == min(images * len(sizes), len(samples))


def test_other_seeds_draw_others_and_copies_stand_once():
    samples = pool([12] * 6)
    first, second = (draw_unlabelled(samples, DiscoverArgs(), seed) for seed in (1, 2))
    assert {s.key for s in first} != {s.key for s in second}
    copies = [*samples, Sample("0-copy", "copy.png", 0, "0000")]
    assert len({s.digest for s in draw_unlabelled(copies, DiscoverArgs(images=20), 1)}) == len(samples)


def test_the_long_tail_is_zipfs():
    args = DiscoverArgs(draw="zipf")
    counts = np.array(list(drawn_of(draw_unlabelled(pool([12] * 900), args, 1)).values()))
    # P(n) = n^-2 / zeta(2): 0.608, 0.152, and 0.064 for 10 and more.
    for few, share in ((1, 0.608), (2, 0.152), (10, 0.064)):
        assert abs((counts == few).mean() - share) < 0.05
