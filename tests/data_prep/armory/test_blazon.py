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


def details_that_differ(one: Blazon, other: Blazon) -> list[str]:
    return [key for key in asdict(one) if getattr(one, key) != getattr(other, key)]


def test_name_reads_as_a_blazon():
    plain = Blazon("plain", "azure", "", "bend", "or", 3, "mullet", "argent")
    divided = Blazon("per pale", "gules", "vert", "bend sinister", "or", 1, "heart", "sable")
    assert plain.name == "azure, a bend or, three mullets argent"
    assert divided.name == "per pale gules and vert, a bend sinister or, a heart sable"


@given(seeds)
@settings(max_examples=100, deadline=None)
def test_name_says_every_detail(seed):
    blazon = random_blazon(np.random.default_rng(seed))
    said = [value for key, value in asdict(blazon).items() if key not in ("count", "division")]
    said += [COUNT_WORDS[blazon.count], "" if blazon.division == "plain" else blazon.division]
    assert all(word in blazon.name for word in said)


def test_different_blazons_have_different_names():
    rng = np.random.default_rng(0)
    drawn = {random_blazon(rng) for _ in range(4000)}
    assert len({blazon.name for blazon in drawn}) == len(drawn)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_a_random_blazon_shows_all_that_its_name_says(seed):
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


def test_splits_hold_their_shares_of_the_vocabulary():
    rng = np.random.default_rng(0)
    owners = [owning_split(random_blazon(rng).name) for _ in range(4000)]
    shares = [owners.count(split) / len(owners) for split in SPLITS]
    assert shares == pytest.approx(SPLIT_SHARES, abs=0.03)


@given(st.lists(seeds, min_size=len(SPLITS), max_size=len(SPLITS)))
@settings(max_examples=25, deadline=None)
def test_splits_are_disjoint_whatever_the_seeds(chosen):
    drawn = [{b.name for b in draw_classes(s, 12, 3, seed)} for s, seed in zip(SPLITS, chosen, strict=True)]
    assert len(set.union(*drawn)) == sum(len(names) for names in drawn) == 12 * len(SPLITS)


@given(splits, seeds)
@settings(max_examples=60, deadline=None)
def test_neighbours_differ_in_one_detail_each_and_stay_in_the_split(split, seed):
    rng = np.random.default_rng(seed)
    core = random_blazon_of_split(split, rng)
    assert owning_split(core.name) == split
    found = neighbours(core, split, rng)
    changes = [details_that_differ(core, other) for other in found]
    assert all(len(change) == 1 for change in changes)
    assert len({change[0] for change in changes}) == len(changes)
    assert all(other.is_visible and owning_split(other.name) == split for other in found)


@given(splits, seeds, st.integers(1, 4), st.integers(1, 14))
@settings(max_examples=40, deadline=None)
def test_classes_come_in_families_of_near_duplicates(split, seed, family_size, classes):
    drawn = draw_classes(split, classes, family_size, seed)
    assert len({b.name for b in drawn}) == classes
    assert {owning_split(b.name) for b in drawn} == {split}
    for start in range(0, classes, family_size):
        core, *kin = drawn[start : start + family_size]
        assert all(len(details_that_differ(core, other)) == 1 for other in kin)


def test_draw_repeats_with_its_seed_and_changes_with_another():
    first = draw_classes("test", 20, 4, 0)
    assert draw_classes("test", 20, 4, 0) == first
    assert not set(draw_classes("test", 20, 4, 1)) & set(first)


def test_the_test_split_alone_gives_twenty_thousand_classes():
    drawn = draw_classes("test", 20_000, 3, 0)
    assert len({b.name for b in drawn}) == 20_000


def test_families_too_large_for_the_vocabulary_are_refused():
    with pytest.raises(UserError, match="families of 10 for the test split; ask for fewer classes or smaller"):
        draw_classes("test", 2, 10, 0)
