"""The rendered images: every detail of a name is visible, and the seed determines every pixel."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from data_prep.armory.blazon import CHARGES, COUNTS, DETAILS, DIVISIONS, ORDINARIES, Blazon, draw_classes
from data_prep.armory.render import CANVAS, COLOURS, draw_shield, render

PLAIN = Blazon("plain", "azure", "", "bend", "or", 3, "mullet", "argent")
DIVIDED = Blazon("quarterly", "azure", "gules", "cross", "or", 2, "heart", "argent")


def visible_pixels(blazon: Blazon, tincture: str) -> int:
    pixels = np.asarray(draw_shield(blazon))
    return int((pixels == (*COLOURS[tincture], 255)).all(-1).sum())


@pytest.mark.parametrize("ordinary", ORDINARIES)
def test_every_tincture_that_a_blazon_names_is_visible(ordinary):
    """Charges must not hide an ordinary, nor an ordinary half of a divided field."""
    for division, count, charge in itertools.product(DIVISIONS, COUNTS, CHARGES):
        second = "" if division == "plain" else "gules"
        blazon = Blazon(division, "azure", second, ordinary, "or", count, charge, "argent")
        for tincture in {"azure", second, "or", "argent"} - {""}:
            assert visible_pixels(blazon, tincture) >= 150, f"{tincture} in {blazon.name}"


@pytest.mark.parametrize("detail", DETAILS)
def test_every_value_of_a_detail_gives_another_drawing(detail):
    blazons = [replace(DIVIDED, **{detail: value}) for value in DETAILS[detail]]
    visible = [blazon for blazon in blazons if blazon.is_visible]
    assert len({draw_shield(blazon).tobytes() for blazon in visible}) == len(visible) >= 4


def test_a_shield_is_transparent_outside_its_outline():
    alpha = np.asarray(draw_shield(PLAIN))[..., 3]
    assert alpha[0].max() == alpha[-1, 0] == alpha[-1, -1] == 0
    assert alpha[CANVAS // 2, CANVAS // 2] == 255


def test_blazon_and_seed_determine_an_image():
    pixels = [np.asarray(render(PLAIN, 64, np.random.default_rng(seed))) for seed in (0, 0, 1)]
    assert pixels[0].shape == (64, 64, 3)
    assert pixels[0].dtype == np.uint8
    assert np.array_equal(pixels[0], pixels[1])
    assert np.abs(pixels[0].astype(int) - pixels[2]).mean() > 10


def test_an_image_still_shows_its_shield():
    """Over many poses, lightings and backgrounds the centre has the colours that the blazon names."""

    def mean_centre(blazon: Blazon) -> np.ndarray:
        images = [np.asarray(render(blazon, 48, np.random.default_rng(seed)), float) for seed in range(40)]
        return np.mean([image[16:32, 16:32] for image in images], (0, 1, 2))

    red = mean_centre(replace(PLAIN, field="gules", charge_tincture="purpure"))
    blue = mean_centre(replace(PLAIN, field="azure", charge_tincture="purpure"))
    assert red[0] > blue[0] + 20
    assert blue[2] > red[2] + 20


def test_classes_of_a_family_give_different_drawings():
    family = draw_classes("test", 6, 6, 3)
    assert len({draw_shield(blazon).tobytes() for blazon in family}) == 6


def test_zero_corruption_changes_nothing_and_more_corruption_makes_classes_less_distinct():
    blazon = draw_classes("val", 1, 1, seed=0)[0]

    def render_pixels(seed: int, corruption: float) -> np.ndarray:
        return np.asarray(render(blazon, 96, np.random.default_rng(seed), corruption), np.float32)

    # The base corpus was rendered before corruption was added: its images must not change.
    default = np.asarray(render(blazon, 96, np.random.default_rng(0)), np.float32)
    assert np.array_equal(render_pixels(0, 0.0), default)
    assert np.array_equal(render_pixels(0, 0.7), render_pixels(0, 0.7))
    # The distance between two classes' mean images, relative to the spread of images within a class.
    other = draw_classes("val", 9, 1, seed=0)[-1]

    def distinctness(corruption: float) -> float:
        first, second = (
            np.stack([np.asarray(render(b, 24, np.random.default_rng(s), corruption), float) for s in range(150)])
            for b in (blazon, other)
        )
        return np.abs(first.mean(0) - second.mean(0)).mean() / first.std(0).mean()

    none, medium, severe = (distinctness(corruption) for corruption in (0.0, 0.5, 1.0))
    assert none > medium > severe
