"""Targets: the order that each of them asks for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.records import NONE_OF_THESE, Candidate, RankingExample
from data_prep.prompting.targets import target_names
from data_prep.settings import TARGETS


def example_of(labels, label, likenesses=None) -> RankingExample:
    likenesses = likenesses or [None] * len(labels)
    found = tuple(Candidate(n, f"class {n}", 0.0, like) for n, like in zip(labels, likenesses, strict=True))
    return RankingExample("key", label, found)


def test_truth_first_keeps_the_retrievers_order_behind_it():
    example = example_of((4, 1, 2, 3), 2)
    assert target_names(example, "truth_first") == ["class 2", "class 4", "class 1", "class 3"]
    assert target_names(example, "truth_only") == ["class 2"]


def test_a_class_that_stands_twice_moves_to_the_front_as_a_whole():
    assert target_names(example_of((4, 2, 1, 2), 2), "truth_first") == ["class 2", "class 2", "class 4", "class 1"]


def test_graded_is_by_likeness_to_the_true_class():
    example = example_of((4, 1, 2, 3, NONE_OF_THESE), 2, [0.1, 0.9, 1.0, 0.5, 0.0])
    assert target_names(example, "graded") == ["class 2", "class 1", "class 3", "class 4", "class -1"]
    without = example_of((4, 1, 3), 2, [0.1, 0.9, 0.5])
    assert target_names(without, "graded") == ["class 1", "class 3", "class 4"]


@pytest.mark.parametrize("target", TARGETS)
def test_none_of_these_is_the_answer_where_the_truth_is_missing(target):
    example = example_of((4, 1, NONE_OF_THESE), 2, [0.1, 0.9, 0.0])
    assert target_names(example, target)[0] == "class -1"


def test_what_cannot_be_answered_says_what_to_change():
    with pytest.raises(UserError, match=r"key: no right answer .* mining\.none_of_these=true"):
        target_names(example_of((4, 1), 2), "truth_first")
    with pytest.raises(UserError, match=r"key: no likenesses to grade by; use mining\.target=truth_first"):
        target_names(example_of((4, 2), 2), "graded")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-1, 1)), min_size=1, max_size=8), st.data())
def test_every_target_but_truth_only_lists_each_candidate_once(pairs, data):
    labels, likenesses = zip(*pairs, strict=True)
    example = example_of(labels, data.draw(st.sampled_from(labels)), likenesses)
    for target in ("truth_first", "graded"):
        assert sorted(target_names(example, target)) == sorted(c.name for c in example.candidates)
        assert target_names(example, target)[0] == f"class {example.label}"
