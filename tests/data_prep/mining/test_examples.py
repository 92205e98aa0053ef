"""Building examples: the guarantees about candidates hold for any retrieved list."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.names import normalize_name
from data_prep.core.records import Candidate, SpecialLabel
from data_prep.mining.examples import build_examples, select_candidates
from data_prep.prompting.prompts import NONE_NAME
from data_prep.settings import MiningArgs

NAMES = [f"class {n}" for n in range(40)]
SYNONYMS = {label: (f"kind {label}", f"class {label + 1}", "Class  3") for label in range(0, 40, 2)}


def candidates(labels) -> tuple[Candidate, ...]:
    return tuple(Candidate(label, NAMES[label], 1 - position / 100) for position, label in enumerate(labels))


distinct = st.lists(st.integers(0, 39), unique=True, min_size=0, max_size=40).map(candidates)
repeated = st.lists(st.integers(0, 5), max_size=40).map(candidates)
policies = st.sampled_from(["only_if_retrieved", "insert", "keep_without"])


@st.composite
def mining_args(draw):
    k = draw(st.integers(2, 8))
    windows = draw(st.booleans())
    common = {
        "k": k,
        "ground_truth": draw(policies),
        "none_of_these": draw(st.booleans()),
        "names": draw(st.sampled_from(["canonical", "synonyms"])),
        "target": "graded",
        "seed": draw(st.integers(0, 9)),
    }
    if windows:
        return MiningArgs(construction="windows", retrieved=k + draw(st.integers(0, 15)), **common)
    easy = draw(st.integers(0, k - 1))
    return MiningArgs(
        k_max=draw(st.none() | st.integers(k, 10)), num_easy_negatives=easy, easy_negative_max_rank=30, **common
    )


def build(retrieved, args, label=7, key="key"):
    outcomes = build_examples(key, label, retrieved[: args.depth], args, NAMES, SYNONYMS)
    return [example for example, _ in outcomes if example]


@settings(max_examples=200, deadline=None)
@given(distinct, mining_args(), st.integers(0, 39))
def test_examples_hold_distinct_classes_under_distinct_names_and_the_truth_by_the_policy(retrieved, args, label):
    outcomes = list(build_examples("key", label, retrieved[: args.depth], args, NAMES, SYNONYMS))
    assert len(outcomes) >= 1  # an image is never dropped without a reason
    keys = [example.key for example, _ in outcomes if example]
    assert len(set(keys)) == len(keys)
    for example, reason in outcomes:
        assert (example is None) == reason.startswith("dropped: ")
        if example is None:
            continue
        real = [c for c in example.candidates if c.label != SpecialLabel.NONE_OF_THESE]
        assert len({c.label for c in real}) == len(real) <= args.most
        assert len({normalize_name(c.name) for c in example.candidates}) == len(example.candidates)
        assert all(c.name in (NAMES[c.label], *SYNONYMS.get(c.label, ())) for c in real)
        if args.names == "canonical":
            assert all(c.name == NAMES[c.label] for c in real)
        assert (example.candidates[-1].name == NONE_NAME) == args.none_of_these
        has_truth = any(c.label == label for c in real)
        if args.ground_truth == "insert":
            assert has_truth
        if args.ground_truth == "only_if_retrieved":
            assert has_truth and reason == "truth retrieved"
        if has_truth:
            assert example.candidates[example.truth].label == label
        else:
            assert (example.truth == len(real)) if args.none_of_these else example.truth is None


@settings(max_examples=100, deadline=None)
@given(distinct, mining_args(), st.integers(0, 39))
def test_only_if_retrieved_loses_no_image_whose_truth_is_among_the_k_nearest(retrieved, args, label):
    args.ground_truth, args.none_of_these = "only_if_retrieved", False
    near = [c.label for c in retrieved[: args.k]]
    if label in near and len(near) >= 2:
        assert build(retrieved, args, label)


def test_windows_are_all_runs_of_k_candidates_and_those_without_the_truth_are_dropped():
    args = MiningArgs(construction="windows", retrieved=20, k=5, candidate_unit="image")
    labels = [7, 1, 2, 7, 3, *range(10, 25)]
    lists = list(select_candidates("key", 7, candidates(labels), args))
    assert [[c.label for c in row] for _, row in lists] == [labels[i : i + 5] for i in range(16)]
    counts = Counter(reason for _, reason in build_examples("key", 7, candidates(labels), args, NAMES, {}))
    assert counts == {"truth retrieved": 4, "dropped: truth not retrieved": 12}


def test_insert_replaces_the_last_of_k_and_appends_where_there_are_fewer():
    full, short = candidates([1, 2, 3]), candidates([1, 2])
    args = MiningArgs(k=3, ground_truth="insert")
    assert [c.label for c in build(full, args)[0].candidates] == [1, 2, 7]
    assert [c.label for c in build(short, args)[0].candidates] == [1, 2, 7]


def test_the_number_of_candidates_varies_over_the_range_and_depends_only_on_the_key():
    args = MiningArgs(k=3, k_max=6, ground_truth="insert")
    retrieved = candidates(range(20))
    sizes = [len(build(retrieved, args, key=str(n))[0].candidates) for n in range(400)]
    assert set(sizes) == {3, 4, 5, 6} and all(60 < sizes.count(k) < 140 for k in (3, 4, 5, 6))
    assert sizes == [len(build(retrieved, args, key=str(n))[0].candidates) for n in range(400)]


def test_easy_negatives_have_lower_ranks_and_the_nearest_candidates_stay():
    args = MiningArgs(k=5, num_easy_negatives=2, easy_negative_max_rank=20)
    retrieved = candidates(range(30))
    rows = [[c.label for c in build(retrieved, args, label=1, key=str(n))[0].candidates] for n in range(300)]
    assert all(row[:3] == [0, 1, 2] and row == sorted(row) and len(row) == 5 for row in rows)
    sampled = Counter(label for row in rows for label in row[3:])
    assert set(sampled) == set(range(3, 20))
    # A truth just outside the hard ones, but among the k nearest, is kept.
    assert all(4 in [c.label for c in build(retrieved, args, label=4, key=str(n))[0].candidates] for n in range(50))


def test_synonyms_change_from_example_to_example_and_never_name_another_candidate():
    args = MiningArgs(k=5, names="synonyms")
    retrieved = candidates([2, 3, 4, 5, 6])
    names = Counter(c.name for n in range(200) for c in build(retrieved, args, label=4, key=str(n))[0].candidates)
    assert min(names["kind 4"], names["class 4"]) > 30
    # "class 3", "class 5" and "Class  3" are synonyms of 2 and 4, but other candidates have these names.
    assert names["class 3"] == names["class 5"] == 200 and not names["Class  3"]


@settings(max_examples=50, deadline=None)
@given(repeated, st.integers(0, 5))
def test_a_class_that_occurs_twice_has_one_name(retrieved, label):
    args = MiningArgs(k=5, candidate_unit="image", names="synonyms", ground_truth="insert")
    for example in build(retrieved, args, label):
        assert len({(c.label, c.name) for c in example.candidates}) == len({c.label for c in example.candidates})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 27}, r"mining.k=27: must be in 2..26"),
        ({"k": 26, "none_of_these": True}, r"mining.k=26: must be in 2..25"),
        ({"k": 5, "k_max": 4}, r"mining.k_max=4: must be at least k, 5"),
        ({"k": 5, "num_easy_negatives": 5}, r"mining.num_easy_negatives=5: must be in 0..4"),
        (
            {"num_easy_negatives": 2, "easy_negative_max_rank": 5},
            r"mining.easy_negative_max_rank=5: must be at least 7",
        ),
        ({"construction": "windows", "retrieved": 4}, r"mining.retrieved=4: must be at least k, 5"),
        ({"construction": "windows", "num_easy_negatives": 1}, r"mining.construction=windows: has windows of k"),
        ({"ground_truth": "keep_without"}, r"keep_without: an example without its truth has no right answer"),
        ({"neighbours": "none"}, r"mining.neighbours=none: must be one of leave_one_out, disjoint, self"),
    ],
)
def test_contradictory_settings_are_errors(changes, message):
    with pytest.raises(Exception, match=message.replace(".", r"\.")):
        MiningArgs(**changes)
