"""Descriptions of blazons in plain words."""

from __future__ import annotations

import pytest

from data_prep.armory.blazon import CHARGES, DIVISIONS, ORDINARIES, TINCTURES, Blazon, draw_classes
from data_prep.armory.descriptions import describe_blazon


@pytest.mark.parametrize(
    ("blazon", "expected"),
    [
        (
            Blazon("plain", "azure", "", "bend", "or", 3, "mullet", "argent"),
            "a blue shield with a yellow diagonal band from the upper left to the lower right and three white stars",
        ),
        (
            Blazon("per pale", "gules", "vert", "saltire", "tenny", 1, "crosslet", "sable"),
            "a shield that is red on the left half and green on the right half, with an orange diagonal cross like an "
            "X and a black small cross",
        ),
        (
            Blazon("plain", "tenny", "", "chief", "or", 2, "crosslet", "argent"),
            "an orange shield with a yellow horizontal band along the top and two white small crosses",
        ),
    ],
)
def test_a_blazon_is_described_in_plain_words(blazon, expected):
    assert describe_blazon(blazon) == expected


def test_different_classes_have_different_descriptions_without_words_of_heraldry():
    texts = [describe_blazon(blazon) for blazon in draw_classes("val", 400, 4, 0)]
    assert len(set(texts)) == len(texts)
    heraldry = {*TINCTURES, *ORDINARIES, *CHARGES, *DIVISIONS} - {"or", "cross", "heart", "crescent", "plain"}
    assert not heraldry & {word.strip(",") for text in texts for word in text.split()}
