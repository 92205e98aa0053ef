"""Armory's vocabulary: names, splits and families."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.armory.blazon import (
    COUNT_WORDS,
    DETAILS,
    SPLIT_SHARES,
    SPLITS,
    Blazon,
    draw_classes,
    neighbours,
    owning_split,
    random_blazon,
    random_blazon_of_split,
)
from data_prep.core.errors import UserError

seeds = st.integers(0, 2**32 - 1)
splits = st.sampled_from(SPLITS)


def details_that_differ(first: Blazon, second: Blazon) -> list[str]:
    return [key for key in asdict(first) if getattr(first, key) != getattr(second, key)]


def test_name_reads_as_a_blazon():
    plain = Blazon("plain", "azure", "", "bend", "or", 3, "mullet", "argent")
    divided = Blazon("per pale", "gules", "vert", "bend sinister", "or", 1, "heart", "sable")
    assert plain.name == "azure, a bend or, three mullets argent"
    assert divided.name == "per pale gules and vert, a bend sinister or, a heart sable"


@given(seeds)
@settings(max_examples=100, deadline=None)
def test_name_contains_every_detail(seed):
    blazon = random_blazon(np.random.default_rng(seed))
    words = [value for key, value in asdict(blazon).items() if key not in ("count", "division")]
    words += [COUNT_WORDS[blazon.count], "" if blazon.division == "plain" else blazon.division]
    assert all(word in blazon.name for word in words)


def test_different_blazons_have_different_names():
    rng = np.random.default_rng(0)
    blazons = {random_blazon(rng) for _ in range(4000)}
    assert len({blazon.name for blazon in blazons}) == len(blazons)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_a_random_blazon_is_visible_and_has_valid_details(seed):
    blazon = random_blazon(np.random.default_rng(seed))
    assert blazon.is_visible
    assert all(value in DETAILS[key] for key, value in asdict(blazon).items())


@pytest.mark.parametrize(
    "blazon",
    [
        Blazon("plain", "or", "", "bend", "or", 1, "heart", "sable"),
        Blazon("plain", "or", "", "bend", "sable", 1, "heart", "sable"),
        Blazon("per pale", "or", "gules", "bend", "azure", 1, "heart", "gules"),
        Blazon("per pale", "or", "or", "bend", "azure", 1, "heart", "gules"),
        Blazon("per pale", "or", "", "bend", "azure", 1, "heart", "gules"),
        Blazon("plain", "or", "gules", "bend", "azure", 1, "heart", "vert"),
    ],
)
def test_touching_parts_of_one_tincture_do_not_count_as_visible(blazon):
    assert not blazon.is_visible


def test_split_of_a_name_never_changes():
    """The shipped models were trained on ``base``: another assignment would let them have seen test classes."""
    assert owning_split("azure, a bend or, three mullets argent") == "base"
    assert owning_split("per pale gules and vert, a bend sinister or, a heart sable") == "val"


def test_splits_have_their_shares_of_the_vocabulary():
    rng = np.random.default_rng(0)
    owners = [owning_split(random_blazon(rng).name) for _ in range(4000)]
    shares = [owners.count(split) / len(owners) for split in SPLITS]
    assert shares == pytest.approx(SPLIT_SHARES, abs=0.03)


@given(st.lists(seeds, min_size=len(SPLITS), max_size=len(SPLITS)))
@settings(max_examples=25, deadline=None)
def test_splits_are_disjoint_for_any_seeds(seed_by_split):
    classes = [{b.name for b in draw_classes(s, 12, 3, seed)} for s, seed in zip(SPLITS, seed_by_split, strict=True)]
    assert len(set.union(*classes)) == sum(len(names) for names in classes) == 12 * len(SPLITS)


@given(splits, seeds)
@settings(max_examples=60, deadline=None)
def test_neighbours_differ_in_one_detail_each_and_stay_in_the_split(split, seed):
    rng = np.random.default_rng(seed)
    core = random_blazon_of_split(split, rng)
    assert owning_split(core.name) == split
    variants = neighbours(core, split, rng)
    changes = [details_that_differ(core, variant) for variant in variants]
    assert all(len(change) == 1 for change in changes)
    assert len({change[0] for change in changes}) == len(changes)
    assert all(variant.is_visible and owning_split(variant.name) == split for variant in variants)


@given(splits, seeds, st.integers(1, 4), st.integers(1, 14))
@settings(max_examples=40, deadline=None)
def test_classes_come_in_families_of_near_duplicates(split, seed, family_size, classes):
    blazons = draw_classes(split, classes, family_size, seed)
    assert len({b.name for b in blazons}) == classes
    assert {owning_split(b.name) for b in blazons} == {split}
    for start in range(0, classes, family_size):
        core, *variants = blazons[start : start + family_size]
        assert all(len(details_that_differ(core, variant)) == 1 for variant in variants)


def test_the_same_seed_gives_the_same_classes_and_another_seed_others():
    first = draw_classes("test", 20, 4, 0)
    assert draw_classes("test", 20, 4, 0) == first
    assert not set(draw_classes("test", 20, 4, 1)) & set(first)


def test_the_test_split_has_at_least_twenty_thousand_classes():
    blazons = draw_classes("test", 20_000, 3, 0)
    assert len({b.name for b in blazons}) == 20_000


def test_families_too_large_for_the_vocabulary_raise_an_error():
    with pytest.raises(UserError, match="families of 10 for the test split; request fewer classes or smaller"):
        draw_classes("test", 2, 10, 0)
