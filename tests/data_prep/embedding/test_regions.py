"""Region crops: windows against hand-computed values, and pixels of simple synthetic images."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.embedding.encoder import embed_regions
from data_prep.embedding.regions import (
    LazyRegion,
    Region,
    clamp_boxes,
    crop_scales,
    crop_windows,
    cut_regions,
    open_region,
    region_key,
)
from data_prep.settings import RegionArgs, RetrieverArgs

PLAIN = RegionArgs(size=32, blur=0)


def box_at(x, y, w, h) -> list[float]:
    return [x, y, x + w, y + h]


def test_a_crop_narrows_from_small_to_large_objects():
    boxes = np.array([box_at(0, 0, side, side) for side in (8, 32, 55.4256, 96, 300)])
    assert crop_scales(boxes, RegionArgs()) == pytest.approx([3, 3, 2, 1, 1], abs=1e-4)


def test_windows_are_squares_around_their_boxes_moved_inside_the_image():
    boxes = np.array([box_at(90, 40, 20, 10), box_at(0, 0, 20, 20), box_at(180, 80, 20, 20), box_at(10, 0, 150, 90)])
    expected = [[70, 15, 130, 75], [0, 0, 60, 60], [140, 40, 200, 100], [10, 0, 160, 100]]
    assert crop_windows(boxes, 200, 100, RegionArgs()).tolist() == expected


boxes_inside = st.tuples(st.floats(0, 180), st.floats(0, 80), st.floats(1, 200), st.floats(1, 100))


@given(st.lists(boxes_inside, min_size=1, max_size=6))
@example([(0.0, 0.99999, 1.0, 1.0)])  # 0.99999 + 1 - 0.99999 is below 1
@settings(max_examples=150, deadline=None)
def test_a_window_is_inside_the_image_and_contains_its_box(rows):
    boxes, fit = clamp_boxes(np.array([box_at(*row) for row in rows]), 200, 100)
    assert fit.all()
    windows = crop_windows(boxes, 200, 100, RegionArgs())
    assert (windows[:, :2] >= 0).all() and (windows[:, 2:] <= [200, 100]).all()
    assert (windows[:, :2] <= boxes[:, :2]).all() and (windows[:, 2:] >= boxes[:, 2:]).all()
    # A batch gives the same windows as single boxes.
    single = [crop_windows(box[None], 200, 100, RegionArgs())[0] for box in boxes]
    assert np.array_equal(windows, single)


def test_boxes_without_a_pixel_in_the_image_are_marked():
    boxes = [box_at(5, 5, 10, 10), box_at(5, 5, 0, 10), box_at(20, 5, -9, 10), box_at(300, 5, 10, 10)]
    boxes += [[np.nan, 0, 5, 5], box_at(-50, -50, 60, 60), box_at(99.5, 0, 50, 50)]
    clamped, fit = clamp_boxes(np.array(boxes), 100, 100)
    assert fit.tolist() == [True, False, False, False, False, True, False]
    assert clamped[5].tolist() == [0, 0, 10, 10]


def stripes() -> Image.Image:
    """Returns an image of black and white columns, each one pixel wide: any blur makes them grey."""
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[:, ::2] = 255
    return Image.fromarray(pixels)


def test_the_object_stays_sharp_and_its_surroundings_are_blurred():
    boxes = np.array([box_at(32, 32, 32, 32)])
    cut = cut_regions(stripes(), boxes, RegionArgs(size=96, blur=0.05))[0, ..., 0]
    assert np.array_equal(cut[32:64, 32:64], np.asarray(stripes())[32:64, 32:64, 0])
    around = np.concatenate([cut[:28].ravel(), cut[68:].ravel(), cut[:, :28].ravel(), cut[:, 68:].ravel()])
    assert (np.abs(around.astype(int) - 127) < 60).all()
    unblurred = cut_regions(stripes(), boxes, RegionArgs(size=96, blur=0))[0]
    assert np.array_equal(unblurred, np.asarray(stripes()))


def test_a_region_shows_its_box_and_not_another():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[10:50, 20:60] = (255, 0, 0)
    pixels[50:, 100:] = (0, 0, 255)
    boxes = np.array([box_at(20, 10, 40, 40), box_at(100, 50, 100, 50)])
    red, blue = cut_regions(Image.fromarray(pixels), boxes, RegionArgs(size=64, small=8, large=16, blur=0))
    assert red.shape == (64, 64, 3)
    assert np.array_equal(red, np.broadcast_to([255, 0, 0], (64, 64, 3)))
    # The window is as wide as the box's longer side and as high as the image: the half above the box is black.
    assert (blue[36:, :, 2] > 200).all() and (blue[:28, :, 2] < 60).all()


@pytest.fixture
def regions(tmp_path) -> list[Region]:
    path = tmp_path / "a.png"
    stripes().save(path)
    return [Region(str(path), file_hash(path), box) for box in ((10, 10, 30, 40), (40, 40, 90, 90))]


def test_regions_are_embedded_by_box_and_settings(regions, encoder, tmp_path, caplog):
    args = RetrieverArgs(regions=PLAIN)
    vectors = embed_regions(encoder, regions, args, tmp_path)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert open_region(regions[0], PLAIN).size == (32, 32)
    caplog.set_level("INFO", "data_prep")
    assert np.array_equal(embed_regions(encoder, regions[::-1], args, tmp_path), vectors[::-1])
    assert "reusing 2 regions" in caplog.text
    embed_regions(encoder, regions, RetrieverArgs(), tmp_path)
    assert "computing 2 of 2 regions" in caplog.text


def test_an_image_that_changed_or_is_missing_is_an_error(regions, tmp_path):
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: has changed since its boxes were read"):
        LazyRegion(regions[0], PLAIN).open()
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png: no such image"):
        LazyRegion(regions[0], PLAIN).open()


def test_a_region_key_depends_on_content_box_and_settings_but_not_on_the_path(regions):
    first, second = regions
    moved = replace(first, path="elsewhere.png", label=3)
    assert region_key(first, PLAIN) == region_key(moved, PLAIN)
    others = [region_key(second, PLAIN), region_key(replace(first, digest="0"), PLAIN), region_key(first, RegionArgs())]
    assert len({region_key(first, PLAIN), *others}) == 4
