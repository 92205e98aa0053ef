"""Scenes: boxes fit their shields, shields hardly overlap, and a seed decides every pixel."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.armory.blazon import draw_classes
from data_prep.armory.scenes import draw_scene
from data_prep.settings import SceneArgs

BLAZONS = draw_classes("test", 8, 4, 0)
SMALL = SceneArgs(size=128, sides=[16, 48])


def shared(one, other) -> float:
    """Of two boxes' areas, the part of the smaller that both cover."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return max(width, 0) * max(height, 0) / smaller


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=12, deadline=None)
def test_boxes_lie_in_the_scene_with_the_sides_and_overlap_asked_for(seed, count):
    _, boxes = draw_scene(BLAZONS[:count], SMALL, 0.5, np.random.default_rng(seed))
    assert len(boxes) == count
    for box in boxes:
        assert 0 <= box[0] < box[2] <= 128 and 0 <= box[1] < box[3] <= 128
        assert 16 <= max(box[2] - box[0], box[3] - box[1]) <= 48
    assert all(shared(a, b) <= SMALL.overlap for n, a in enumerate(boxes) for b in boxes[:n])


def test_what_changes_in_a_scene_lies_in_the_boxes():
    """The same draws with other tinctures differ within the boxes alone, up to the lens's blur."""
    clean = SceneArgs(size=128, sides=[40, 48])
    pictures = []
    for blazons in (BLAZONS[:2], BLAZONS[4:6]):
        picture, boxes = draw_scene(blazons, clean, 0.0, np.random.default_rng(3))
        pictures.append(np.asarray(picture, int))
    inside = np.zeros((128, 128), bool)
    for left, top, right, bottom in boxes:
        inside[max(top - 4, 0) : bottom + 4, max(left - 4, 0) : right + 4] = True
    change = np.abs(pictures[0] - pictures[1]).max(-1)
    assert change[~inside].max() == 0
    for left, top, right, bottom in boxes:
        assert (change[top:bottom, left:right] > 30).mean() > 0.2


def test_a_scene_is_a_function_of_its_seed():
    one, again, other = (draw_scene(BLAZONS[:3], SMALL, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one[0].size == (128, 128) and one[0].mode == "RGB"
    assert np.array_equal(one[0], again[0]) and one[1] == again[1]
    assert one[1] != other[1]


def test_a_scene_without_room_is_drawn_all_the_same():
    crowded = SceneArgs(size=64, sides=[32, 32], overlap=0.0)
    _, boxes = draw_scene([BLAZONS[0]] * 9, crowded, 0.0, np.random.default_rng(0))
    assert len(boxes) == 9 and all(0 <= box[0] < box[2] <= 64 for box in boxes)
