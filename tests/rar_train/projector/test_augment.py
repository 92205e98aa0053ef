"""Altered pictures: alike for a seed, of the same size, and without a trace in the program's random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from rar_train.projector.augment import augment


@pytest.fixture
def picture() -> Image.Image:
    """A dark square left of the middle, on white."""
    image = Image.new("RGB", (80, 60), "white")
    ImageDraw.Draw(image).rectangle((10, 20, 29, 39), fill=(120, 30, 60))
    return image


def dark_middle(image: Image.Image) -> float:
    """Where the dark part's middle lies, from left to right in pixels."""
    return float(np.nonzero(np.asarray(image.convert("L")) < 150)[1].mean())


def test_a_seed_alters_a_picture_alike_and_another_otherwise(picture):
    one, again, other = (np.asarray(augment(picture, seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_what_is_shown_stays_in_the_picture_and_is_mirrored_about_every_other_time(picture):
    found = [augment(picture, seed) for seed in range(60)]
    assert {(image.size, image.mode) for image in found} == {((80, 60), "RGB")}
    middles = np.array([dark_middle(image) for image in found])
    mirrored = middles > 40
    assert 15 < mirrored.sum() < 45
    # The square's middle lies 20 pixels from the left; turned, scaled and shifted it moves by half that at most.
    assert abs(np.where(mirrored, 79 - middles, middles) - 20).max() < 12


def test_it_leaves_the_programs_random_numbers_alone(picture):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    augment(picture, 9)
    assert torch.equal(torch.rand(3), expected)
