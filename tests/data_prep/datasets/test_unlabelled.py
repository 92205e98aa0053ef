"""Unlabelled images: their number per class, reproducible by seed, and without any trace of their labels."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.records import Sample, SpecialLabel
from data_prep.datasets.unlabelled import draw_unlabelled
from data_prep.settings import DiscoverArgs


def pool(sizes: list[int]) -> list[Sample]:
    return [
        Sample(f"{label}-{n}", f"{label}/{n}.png", label, f"{label:02d}{n:02d}")
        for label, size in enumerate(sizes)
        for n in range(size)
    ]


def count_by_class(samples: list[Sample]) -> Counter[int]:
    """Counts images by class, which the keys of this test contain."""
    return Counter(int(sample.key.split("-")[0]) for sample in samples)


sizes = st.lists(st.integers(1, 14), min_size=1, max_size=8)


@given(sizes, st.integers(1, 4), st.integers(0, 5), st.sampled_from(["balanced", "zipf", "uniform"]))
def test_sampling_is_seeded_unlabelled_and_of_the_requested_size(sizes, images, seed, draw):
    samples, args = pool(sizes), DiscoverArgs(images=images, draw=draw)
    selected = draw_unlabelled(samples, args, seed)
    assert selected == draw_unlabelled(samples, args, seed)
    assert {sample.label for sample in selected} == {SpecialLabel.UNLABELLED}
    assert {s.key for s in selected} <= {s.key for s in samples} and len({s.key for s in selected}) == len(selected)
    assert [s.digest for s in selected] == sorted(s.digest for s in selected)
    counts = count_by_class(selected)
    if draw == "balanced":
        assert counts == {label: min(images, size) for label, size in enumerate(sizes)}
    elif draw == "zipf":
        assert all(1 <= counts[label] <= min(args.max_images_per_class, size) for label, size in enumerate(sizes))
    else:
        assert len(selected) == min(images * len(sizes), len(samples))


def test_another_seed_samples_other_images_and_copies_occur_once():
    samples = pool([12] * 6)
    first, second = (draw_unlabelled(samples, DiscoverArgs(), seed) for seed in (1, 2))
    assert {s.key for s in first} != {s.key for s in second}
    copies = [*samples, Sample("0-copy", "copy.png", 0, "0000")]
    assert len({s.digest for s in draw_unlabelled(copies, DiscoverArgs(images=20), 1)}) == len(samples)


def test_class_counts_follow_zipfs_law():
    args = DiscoverArgs(draw="zipf")
    counts = np.array(list(count_by_class(draw_unlabelled(pool([12] * 900), args, 1)).values()))
    # P(n) = n^-2 / zeta(2): 0.608, 0.152, and 0.064 for 10 and more.
    for count, share in ((1, 0.608), (2, 0.152), (10, 0.064)):
        assert abs((counts == count).mean() - share) < 0.05
