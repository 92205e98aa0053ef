"""Augmented images: equal for a seed, of the same size, and without effect on the global random state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from rar_train.projector.augment import augment


@pytest.fixture
def image() -> Image.Image:
    """A dark square left of the middle, on white."""
    canvas = Image.new("RGB", (80, 60), "white")
    ImageDraw.Draw(canvas).rectangle((10, 20, 29, 39), fill=(120, 30, 60))
    return canvas


def dark_middle(image: Image.Image) -> float:
    """Returns the horizontal center of the dark part, in pixels from the left."""
    return float(np.nonzero(np.asarray(image.convert("L")) < 150)[1].mean())


def test_the_same_seed_gives_the_same_image_and_another_seed_another(image):
    first, repeated, other_seed = (np.asarray(augment(image, seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, repeated) and not np.array_equal(first, other_seed)


def test_the_object_stays_in_the_image_and_is_mirrored_about_half_the_time(image):
    views = [augment(image, seed) for seed in range(60)]
    assert {(view.size, view.mode) for view in views} == {((80, 60), "RGB")}
    middles = np.array([dark_middle(view) for view in views])
    mirrored = middles > 40
    assert 15 < mirrored.sum() < 45
    # The square's center is 20 pixels from the left; rotation, scaling and shift move it by at most about half of that.
    assert abs(np.where(mirrored, 79 - middles, middles) - 20).max() < 12


def test_it_does_not_change_the_global_random_state(image):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    augment(image, 9)
    assert torch.equal(torch.rand(3), expected)
