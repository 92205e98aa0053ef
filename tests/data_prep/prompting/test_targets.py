"""Training targets: the order that each of them requires."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, RankingExample, SpecialLabel
from data_prep.prompting.targets import target_names
from data_prep.settings import TARGETS


def make_example(labels, label, similarities=None) -> RankingExample:
    similarities = similarities or [None] * len(labels)
    candidates = tuple(
        Candidate(n, f"class {n}", 0.0, similarity) for n, similarity in zip(labels, similarities, strict=True)
    )
    return RankingExample("key", label, candidates)


def test_truth_first_keeps_the_retrievers_order_after_the_true_class():
    example = make_example((4, 1, 2, 3), 2)
    assert target_names(example, "truth_first") == ["class 2", "class 4", "class 1", "class 3"]
    assert target_names(example, "truth_only") == ["class 2"]


def test_a_true_class_that_occurs_twice_moves_to_the_front_with_both_candidates():
    assert target_names(make_example((4, 2, 1, 2), 2), "truth_first") == ["class 2", "class 2", "class 4", "class 1"]


def test_graded_is_sorted_by_similarity_to_the_true_class():
    example = make_example((4, 1, 2, 3, SpecialLabel.NONE_OF_THESE), 2, [0.1, 0.9, 1.0, 0.5, 0.0])
    assert target_names(example, "graded") == ["class 2", "class 1", "class 3", "class 4", "class -1"]
    without = make_example((4, 1, 3), 2, [0.1, 0.9, 0.5])
    assert target_names(without, "graded") == ["class 1", "class 3", "class 4"]


@pytest.mark.parametrize("target", TARGETS)
def test_none_of_these_is_the_answer_if_the_true_class_is_missing(target):
    example = make_example((4, 1, SpecialLabel.NONE_OF_THESE), 2, [0.1, 0.9, 0.0])
    assert target_names(example, target)[0] == "class -1"


def test_an_example_without_an_answer_is_an_error_that_says_what_to_change():
    with pytest.raises(UserError, match=r"key: no right answer .* mining\.none_of_these=true"):
        target_names(make_example((4, 1), 2), "truth_first")
    with pytest.raises(UserError, match=r"key: no name similarities to grade by; set mining\.target=truth_first"):
        target_names(make_example((4, 2), 2), "graded")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-1, 1)), min_size=1, max_size=8), st.data())
def test_every_target_but_truth_only_lists_each_candidate_once(pairs, data):
    labels, similarities = zip(*pairs, strict=True)
    example = make_example(labels, data.draw(st.sampled_from(labels)), similarities)
    for target in ("truth_first", "graded"):
        assert sorted(target_names(example, target)) == sorted(c.name for c in example.candidates)
        assert target_names(example, target)[0] == f"class {example.label}"
