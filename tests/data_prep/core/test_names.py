"""Class names: which count as the same, and that classes always get distinct names."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.core.names import disambiguate, normalize_name, tidy
from data_prep.prompting.prompts import list_answer
from data_prep.prompting.replies import read_list

lists_of_names = st.lists(st.sampled_from(["crane", "Crane", "crane ", "crane (2)", "crane (3)"]) | st.text(min_size=1))


@settings(max_examples=100, deadline=None)
@given(lists_of_names)
@example(["crane", "crane (2)", "crane", "CRANE"])
def test_classes_get_distinct_names_and_unique_names_are_unchanged(names):
    distinct = disambiguate(names)
    assert len({normalize_name(name) for name in distinct}) == len(names)
    unique = [n for n in names if [normalize_name(other) for other in names].count(normalize_name(n)) == 1]
    assert all(n in distinct for n in unique)
    assert all(new == old or new.startswith(old) for new, old in zip(distinct, names, strict=True))
    assert disambiguate(distinct) == distinct


def test_two_classes_with_the_same_name_are_two_different_answers():
    names = disambiguate(["crane", "heron", "Crane"])
    assert names == ("crane", "heron", "Crane (2)")
    ranking = read_list(list_answer([names[2], names[0], names[1]]), names)
    assert (ranking.order, ranking.outcome) == ((2, 0, 1), "ok")


@pytest.mark.parametrize(
    "other",
    [
        *(
            "Ku\u0308cken ",
            "kücken\u00a0",
            "K\u00adücken",
            "Kü\u200bcken",
            "\ufeffKücken",
            "ＫÜＣＫＥＮ",
            "Kücken\ufe0f",
        ),
        *("Kücken\0\0", "K\x08ücken", "Kücken\x9f", "Kücken\u2800"),
    ],
)
def test_names_that_look_alike_are_normalised_to_the_same_text(other):
    assert normalize_name(other) == normalize_name("Kücken")


def test_invisible_characters_and_odd_white_space_are_removed_from_a_name():
    assert tidy("\ufeff Ku\u0308cken\u00a0 im\tNest\u200b") == "Kücken im Nest"
    assert tidy("Kücken\0\0") == tidy("K\x1bücken") == "Kücken"
    assert tidy("می\u200cخواهم") == "می\u200cخواهم"  # the joiner belongs to the script
    assert tidy("m² ❤️") == "m² ❤️"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12))
def test_tidying_is_idempotent_and_does_not_change_the_normalised_name(name):
    assert tidy(tidy(name)) == tidy(name)
    assert normalize_name(tidy(name)) == normalize_name(name)
    assert normalize_name(unicodedata.normalize("NFD", name)) == normalize_name(name)
