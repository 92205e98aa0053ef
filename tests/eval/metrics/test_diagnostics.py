"""Curves and confusions against naive counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.diagnostics import STATUSES, Case, accuracy_by_share_ranked, most_confused, recall_within

NAMES = tuple("abcd")


def make_case(truth: str, tuned: str = "abc", similarities: tuple = (0.9, 0.5, 0.1), probabilities: tuple = ()) -> Case:
    """Returns an image for which the retriever proposes a, b and c."""
    return Case("key", truth, tuple("abc"), similarities, tuple("abc"), tuple(tuned), probabilities, "ok", "")


cases_strategy = st.lists(
    st.builds(
        make_case,
        st.sampled_from(NAMES),
        st.permutations("abc").map("".join),
        st.floats(0, 1).map(lambda margin: (1.0, 1.0 - margin, 0.0)),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize(
    ("truth", "tuned", "status"),
    [
        ("b", "bac", "corrected"),
        ("a", "bac", "broken"),
        ("a", "abc", "right"),
        ("b", "cab", "wrong"),
        ("d", "abc", "missed"),
    ],
)
def test_each_case_has_its_status(truth, tuned, status):
    assert make_case(truth, tuned).status == status and status in STATUSES


def test_confidence_is_the_probability_of_the_first_in_the_tuned_order():
    assert make_case("a", "cab", probabilities=(0.2, 0.1, 0.7)).confidence == 0.7
    assert make_case("a").confidence is None


@given(cases_strategy)
def test_recall_within_k_counts_images_whose_true_class_is_among_the_first_k(cases):
    orders, truths = [c.tuned for c in cases], [c.truth for c in cases]
    expected = [np.mean([t in o[:depth] for o, t in zip(orders, truths, strict=True)]) for depth in (1, 2, 3)]
    assert recall_within(orders, truths, 3) == pytest.approx(expected)


@given(cases_strategy)
def test_ranking_no_image_gives_the_retrievers_accuracy_and_ranking_all_the_rankers(cases):
    shares, accuracies = accuracy_by_share_ranked(cases)
    assert (shares[0], shares[-1]) == (0, 1)
    assert accuracies[0] == pytest.approx(np.mean([c.truth == "a" for c in cases]))
    assert accuracies[-1] == pytest.approx(np.mean([c.truth == c.tuned[0] for c in cases]))


def test_images_that_the_retriever_is_uncertain_of_are_ranked_first():
    uncertain = make_case("b", "bac", (0.9, 0.89, 0.1))
    certain = make_case("a", "bac", (0.9, 0.1, 0.0))
    _, accuracies = accuracy_by_share_ranked([certain, uncertain], points=3)
    assert accuracies == [0.5, 1.0, 0.5]  # none ranked; the uncertain one corrected; the certain one broken


def test_confusions_leave_out_classes_that_were_not_candidates():
    cases = [make_case("b", "abc")] * 3 + [make_case("c", "bca")] * 2 + [make_case("d", "abc"), make_case("a", "abc")]
    assert most_confused(cases, 5) == [("b", "a", 3), ("c", "b", 2)]
    assert most_confused(cases, 1) == [("b", "a", 3)]
