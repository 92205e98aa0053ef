"""A class is divided by shares; copies stay together, and classes without copies are divided as ever."""

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.reading.cutting import cut

RATIOS = st.sampled_from([[0.6, 0.2, 0.2], [0.8, 0.1, 0.1], [0.5, 0.25, 0.25], [0.02, 0.96, 0.02], [0.75, 0.25]])


def expected_without_copies(items: list[int], ratios: list[float], rng: random.Random) -> list[list[int]]:
    """Contiguous stretches of a shuffled class."""
    shuffled = rng.sample(items, len(items))
    counts = [max(1, round(share * len(items))) for share in ratios[1:]]
    while len(items) - sum(counts) < 2:
        counts[counts.index(max(counts))] -= 1
    edges = [0, len(items) - sum(counts)]
    for count in counts:
        edges.append(edges[-1] + count)
    return [shuffled[a:b] for a, b in pairwise(edges)]


@given(st.integers(4, 40), RATIOS, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_class_without_copies_is_cut_into_stretches_of_its_shuffled_images(count, ratios, seed):
    items = list(range(count))
    assert cut(items, items, ratios, random.Random(seed)) == expected_without_copies(items, ratios, random.Random(seed))


@given(st.lists(st.integers(0, 12), min_size=4, max_size=60), RATIOS, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_groups_stay_together_and_every_part_has_its_minimum_of_groups(groups, ratios, seed):
    if len(set(groups)) <= len(ratios):
        return
    items = list(range(len(groups)))
    parts = cut(items, groups, ratios, random.Random(seed))
    assert sorted(item for part in parts for item in part) == items
    in_parts = [{groups[item] for item in part} for part in parts]
    assert sum(map(len, in_parts)) == len(set(groups)), "a group is in two parts"
    assert len(in_parts[0]) >= 2
    assert min(map(len, in_parts)) >= 1
    assert cut(items, groups, ratios, random.Random(seed)) == parts


def test_the_parts_are_as_large_as_without_copies_where_the_groups_allow():
    groups = [0, 0, 0, 1, 1, *range(2, 17)]  # of 20 images
    sizes = [len(part) for part in cut(list(range(20)), groups, [0.6, 0.2, 0.2], random.Random(3))]
    assert sizes == [12, 4, 4]


def test_a_class_leaves_the_random_numbers_of_the_next_one_as_they_were():
    for groups in ([0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 3]):
        rng, other = random.Random(1), random.Random(1)
        cut(list(range(6)), groups, [0.6, 0.2, 0.2], rng)
        other.sample(range(6), 6)
        assert rng.random() == other.random()
