"""Scenes: boxes fit their shields, overlap is limited, and the seed determines every pixel."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.armory.blazon import draw_classes
from data_prep.armory.scenes import draw_scene
from data_prep.settings import SceneArgs

BLAZONS = draw_classes("test", 8, 4, 0)
SMALL = SceneArgs(size=128, sides=[16, 48])


def overlap(first, second) -> float:
    """Returns the intersection of two boxes over the area of the smaller one."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second))
    return max(width, 0) * max(height, 0) / smaller


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=12, deadline=None)
def test_boxes_are_inside_the_scene_with_the_requested_sides_and_overlap(seed, count):
    _, boxes = draw_scene(BLAZONS[:count], SMALL, 0.5, np.random.default_rng(seed))
    assert len(boxes) == count
    for box in boxes:
        assert 0 <= box[0] < box[2] <= 128 and 0 <= box[1] < box[3] <= 128
        assert 16 <= max(box[2] - box[0], box[3] - box[1]) <= 48
    assert all(overlap(a, b) <= SMALL.overlap for n, a in enumerate(boxes) for b in boxes[:n])


def test_other_tinctures_change_pixels_only_inside_the_boxes():
    """With the same random state, two scenes of other tinctures differ only inside the boxes, up to the blur."""
    clean = SceneArgs(size=128, sides=[40, 48])
    images = []
    for blazons in (BLAZONS[:2], BLAZONS[4:6]):
        image, boxes = draw_scene(blazons, clean, 0.0, np.random.default_rng(3))
        images.append(np.asarray(image, int))
    inside = np.zeros((128, 128), bool)
    for left, top, right, bottom in boxes:
        inside[max(top - 4, 0) : bottom + 4, max(left - 4, 0) : right + 4] = True
    change = np.abs(images[0] - images[1]).max(-1)
    assert change[~inside].max() == 0
    for left, top, right, bottom in boxes:
        assert (change[top:bottom, left:right] > 30).mean() > 0.2


def test_the_seed_determines_a_scene():
    first, again, other = (draw_scene(BLAZONS[:3], SMALL, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first[0].size == (128, 128) and first[0].mode == "RGB"
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]
    assert first[1] != other[1]


def test_a_scene_too_small_for_the_allowed_overlap_is_rendered_anyway():
    crowded = SceneArgs(size=64, sides=[32, 32], overlap=0.0)
    _, boxes = draw_scene([BLAZONS[0]] * 9, crowded, 0.0, np.random.default_rng(0))
    assert len(boxes) == 9 and all(0 <= box[0] < box[2] <= 64 for box in boxes)
