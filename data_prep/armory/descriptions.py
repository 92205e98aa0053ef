"""Descriptions of armory's classes in plain words, for a reader or a model that does not know heraldry."""

from __future__ import annotations

from data_prep.armory.blazon import COUNT_WORDS, Blazon

_COLOURS = {
    "or": "yellow",
    "argent": "white",
    "azure": "blue",
    "gules": "red",
    "sable": "black",
    "vert": "green",
    "purpure": "purple",
    "tenny": "orange",
}
_DIVISIONS = {
    "per pale": "{} on the left half and {} on the right half",
    "per fess": "{} in the upper half and {} in the lower half",
    "per bend": "{} and {}, divided by a diagonal line",
    "quarterly": "quartered in {} and {}",
}
_BANDS = {
    "bend": "diagonal band from the upper left to the lower right",
    "bend sinister": "diagonal band from the upper right to the lower left",
    "fess": "horizontal band across the middle",
    "pale": "vertical band down the middle",
    "chevron": "band in the shape of an upturned V",
    "cross": "cross of a vertical and a horizontal band",
    "saltire": "diagonal cross like an X",
    "chief": "horizontal band along the top",
}
_EMBLEMS = {
    "mullet": "star",
    "roundel": "disc",
    "lozenge": "diamond",
    "billet": "upright rectangle",
    "annulet": "ring",
    "crescent": "crescent moon",
    "heart": "heart",
    "crosslet": "small cross",
}


def describe_blazon(blazon: Blazon) -> str:
    """Describes a blazon, such as ``a blue shield with a yellow vertical band down the middle and two white stars``."""
    ground = _COLOURS[blazon.field]
    if blazon.division != "plain":
        ground = _DIVISIONS[blazon.division].format(ground, _COLOURS[blazon.field2])
        shield = f"a shield that is {ground}, with"
    else:
        shield = f"{_article(ground)} {ground} shield with"
    band = f"{_COLOURS[blazon.ordinary_tincture]} {_BANDS[blazon.ordinary]}"
    colour, emblem = _COLOURS[blazon.charge_tincture], _EMBLEMS[blazon.charge]
    count = COUNT_WORDS[blazon.count] if blazon.count > 1 else _article(colour)
    emblem += {"small cross": "es"}.get(emblem, "s") if blazon.count > 1 else ""
    return f"{shield} {_article(band)} {band} and {count} {colour} {emblem}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
