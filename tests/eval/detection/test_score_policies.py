"""Score policies on values computed by hand, and properties of each."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import settings
from data_prep.core.errors import UserError
from data_prep.core.records import Ranking
from eval.detection.score_policies import POLICIES, Ranked, check_policy

# The ranker puts the retriever's third candidate first.
BOX = Ranked(0.5, (0.6, 0.3, 0.1), Ranking((2, 0, 1), (0.25, 0.15, 0.6)))


@pytest.mark.parametrize(
    ("policy", "scores"),
    [
        ("clip_score_permuted", [0.15, 0.05, 0.3]),
        ("ranker_probability", [0.125, 0.075, 0.3]),
        ("product", [0.075, 0.0225, 0.03]),
        ("geometric_mean", [math.sqrt(0.125), math.sqrt(0.075), math.sqrt(0.3)]),
        ("reciprocal_rank", [0.25, 0.5 / 3, 0.5]),
        ("detector_score", [0, 0, 0.5]),
        ("retriever", [0.3, 0.15, 0.05]),
    ],
)
def test_scores_computed_by_hand(policy, scores):
    assert POLICIES[policy](BOX) == pytest.approx(scores)


def test_the_settings_list_all_policies():
    assert tuple(POLICIES) == settings.POLICIES


@st.composite
def boxes(draw) -> Ranked:
    count = draw(st.integers(1, 7))
    shares = draw(st.lists(st.floats(0.01, 1), min_size=count + 1, max_size=count + 1))
    retriever = sorted((share / sum(shares) for share in shares[:count]), reverse=True)
    weights = draw(st.lists(st.floats(0.01, 1), min_size=count, max_size=count))
    probabilities = tuple(weight / sum(weights) for weight in weights)
    order = tuple(sorted(range(count), key=lambda position: -probabilities[position]))
    return Ranked(draw(st.floats(0, 1)), tuple(retriever), Ranking(order, probabilities))


@given(boxes())
def test_scores_are_between_0_and_1_and_follow_the_ranking_where_it_is_used(box):
    for policy, score in POLICIES.items():
        scores = score(box)
        assert len(scores) == len(box.retriever) and all(0 <= value <= 1 for value in scores)
        by_ranker = [scores[position] for position in box.ranking.order]
        if policy not in ("product", "retriever"):
            assert by_ranker == sorted(by_ranker, reverse=True)


def test_a_policy_that_needs_probabilities_refuses_a_mode_without_them():
    check_policy("reciprocal_rank", "generate")
    check_policy("product", "letters")
    with pytest.raises(UserError, match=r"detection\.policy=product: ranker\.mode=generate .* clip_score_permuted"):
        check_policy("product", "generate")
