"""The pictures: everything that a name says is seen, and a picture is a function of its seed."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from data_prep.armory.blazon import CHARGES, COUNTS, DETAILS, DIVISIONS, ORDINARIES, Blazon, draw_classes
from data_prep.armory.render import CANVAS, PAINTS, draw_shield, render

PLAIN = Blazon("plain", "azure", "", "bend", "or", 3, "mullet", "argent")
DIVIDED = Blazon("quarterly", "azure", "gules", "cross", "or", 2, "heart", "argent")


def visible_pixels(blazon: Blazon, tincture: str) -> int:
    pixels = np.asarray(draw_shield(blazon))
    return int((pixels == (*PAINTS[tincture], 255)).all(-1).sum())


@pytest.mark.parametrize("ordinary", ORDINARIES)
def test_every_tincture_that_a_blazon_names_is_seen(ordinary):
    """Charges must not hide an ordinary, nor an ordinary half of a divided field."""
    for division, count, charge in itertools.product(DIVISIONS, COUNTS, CHARGES):
        second = "" if division == "plain" else "gules"
        blazon = Blazon(division, "azure", second, ordinary, "or", count, charge, "argent")
        for tincture in {"azure", second, "or", "argent"} - {""}:
            assert visible_pixels(blazon, tincture) >= 150, f"{tincture} in {blazon.name}"


@pytest.mark.parametrize("detail", DETAILS)
def test_every_value_of_a_detail_is_drawn_differently(detail):
    blazons = [replace(DIVIDED, **{detail: value}) for value in DETAILS[detail]]
    visible = [blazon for blazon in blazons if blazon.is_visible]
    assert len({draw_shield(blazon).tobytes() for blazon in visible}) == len(visible) >= 4


def test_a_shield_is_transparent_outside_its_outline():
    alpha = np.asarray(draw_shield(PLAIN))[..., 3]
    assert alpha[0].max() == alpha[-1, 0] == alpha[-1, -1] == 0
    assert alpha[CANVAS // 2, CANVAS // 2] == 255


def test_a_picture_is_a_function_of_blazon_and_seed():
    pixels = [np.asarray(render(PLAIN, 64, np.random.default_rng(seed))) for seed in (0, 0, 1)]
    assert pixels[0].shape == (64, 64, 3)
    assert pixels[0].dtype == np.uint8
    assert np.array_equal(pixels[0], pixels[1])
    assert np.abs(pixels[0].astype(int) - pixels[2]).mean() > 10


def test_a_picture_still_shows_its_shield():
    """Over many poses, lights and backgrounds the centre keeps the colours that the blazon names."""

    def mean_centre(blazon: Blazon) -> np.ndarray:
        pictures = [np.asarray(render(blazon, 48, np.random.default_rng(seed)), float) for seed in range(40)]
        return np.mean([picture[16:32, 16:32] for picture in pictures], (0, 1, 2))

    red = mean_centre(replace(PLAIN, field="gules", charge_tincture="purpure"))
    blue = mean_centre(replace(PLAIN, field="azure", charge_tincture="purpure"))
    assert red[0] > blue[0] + 20
    assert blue[2] > red[2] + 20


def test_classes_of_a_family_stay_apart_when_drawn():
    family = draw_classes("test", 6, 6, 3)
    assert len({draw_shield(blazon).tobytes() for blazon in family}) == 6


def test_fair_weather_changes_nothing_and_foul_weather_hides_more():
    blazon = draw_classes("val", 1, 1, seed=0)[0]

    def picture(seed: int, weather: float) -> np.ndarray:
        return np.asarray(render(blazon, 96, np.random.default_rng(seed), weather), np.float32)

    # The base corpus was drawn before there was weather: its pictures must not move.
    plain = np.asarray(render(blazon, 96, np.random.default_rng(0)), np.float32)
    assert np.array_equal(picture(0, 0.0), plain)
    assert np.array_equal(picture(0, 0.7), picture(0, 0.7))
    # How far pictures of one class lie from their common middle, against how far apart two classes' middles lie.
    other = draw_classes("val", 9, 1, seed=0)[-1]

    def distinctness(weather: float) -> float:
        one, two = (
            np.stack([np.asarray(render(b, 24, np.random.default_rng(s), weather), float) for s in range(150)])
            for b in (blazon, other)
        )
        return np.abs(one.mean(0) - two.mean(0)).mean() / one.std(0).mean()

    clear, middling, foul = (distinctness(weather) for weather in (0.0, 0.5, 1.0))
    assert clear > middling > foul
