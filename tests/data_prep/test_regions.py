"""Regions: windows by hand-made numbers, pixels of a picture one can reason about, and files with broken boxes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.encoder import embed_regions
from data_prep.errors import UserError
from data_prep.regions import clamp_boxes, crop_scales, crop_windows, cut_regions, open_region, read_regions
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
@settings(max_examples=150, deadline=None)
def test_a_window_lies_in_the_image_and_holds_its_box(rows):
    boxes, fit = clamp_boxes(np.array([box_at(*row) for row in rows]), 200, 100)
    assert fit.all()
    windows = crop_windows(boxes, 200, 100, RegionArgs())
    assert (windows[:, :2] >= 0).all() and (windows[:, 2:] <= [200, 100]).all()
    assert (windows[:, :2] <= boxes[:, :2]).all() and (windows[:, 2:] >= boxes[:, 2:]).all()
    # Many at once are each alone.
    alone = [crop_windows(box[None], 200, 100, RegionArgs())[0] for box in boxes]
    assert np.array_equal(windows, alone)


def test_boxes_without_a_pixel_in_the_image_are_told_apart():
    boxes = [box_at(5, 5, 10, 10), box_at(5, 5, 0, 10), box_at(20, 5, -9, 10), box_at(300, 5, 10, 10)]
    boxes += [[np.nan, 0, 5, 5], box_at(-50, -50, 60, 60), box_at(99.5, 0, 50, 50)]
    clamped, fit = clamp_boxes(np.array(boxes), 100, 100)
    assert fit.tolist() == [True, False, False, False, False, True, False]
    assert clamped[5].tolist() == [0, 0, 10, 10]


def stripes() -> Image.Image:
    """Black and white columns, each one pixel wide: any blur makes them grey."""
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[:, ::2] = 255
    return Image.fromarray(pixels)


def test_the_object_stays_sharp_and_its_surroundings_are_blurred():
    boxes = np.array([box_at(32, 32, 32, 32)])
    cut = cut_regions(stripes(), boxes, RegionArgs(size=96, blur=0.05))[0, ..., 0]
    assert np.array_equal(cut[32:64, 32:64], np.asarray(stripes())[32:64, 32:64, 0])
    around = np.concatenate([cut[:28].ravel(), cut[68:].ravel(), cut[:, :28].ravel(), cut[:, 68:].ravel()])
    assert (np.abs(around.astype(int) - 127) < 60).all()
    whole = cut_regions(stripes(), boxes, RegionArgs(size=96, blur=0))[0]
    assert np.array_equal(whole, np.asarray(stripes()))


def test_a_region_shows_its_box_and_not_another():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[10:50, 20:60] = (255, 0, 0)
    pixels[50:, 100:] = (0, 0, 255)
    boxes = np.array([box_at(20, 10, 40, 40), box_at(100, 50, 100, 50)])
    red, blue = cut_regions(Image.fromarray(pixels), boxes, RegionArgs(size=64, small=8, large=16, blur=0))
    assert red.shape == (64, 64, 3)
    assert np.array_equal(red, np.broadcast_to([255, 0, 0], (64, 64, 3)))
    # As wide as its longer side and the image's height: the half above it is black.
    assert (blue[36:, :, 2] > 200).all() and (blue[:28, :, 2] < 60).all()


@pytest.fixture
def coco(tmp_path):
    """Three images, one of them broken, and boxes of every kind."""
    (tmp_path / "val2017").mkdir()
    Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(tmp_path / "val2017" / "a.png")
    Image.fromarray(np.full((50, 50, 3), 30, np.uint8)).save(tmp_path / "val2017" / "b.png")
    (tmp_path / "val2017" / "bad.png").write_bytes(b"no image")
    boxes = [(1, 7, [10, 10, 20, 30]), (1, 9, [0, 0, 0, 5]), (2, 9, [40, 40, 50, 50]), (3, 7, [1, 1, 5, 5])]
    boxes += [(4, 7, [1, 1, 5, 5]), (1, 8, [1, 1, 5, 5]), (1, 7, [1, 1, "x", 5]), (2, 7, [500, 1, 5, 5])]
    annotations = [{"id": n, "image_id": i, "category_id": c, "bbox": b} for n, (i, c, b) in enumerate(boxes)]
    annotations.append({"id": 99, "image_id": 1, "category_id": 7, "bbox": [1, 1, 5, 5], "iscrowd": 1})
    value = {
        "images": [
            {"id": 1, "file_name": "val2017/a.png"},
            {"id": 2, "coco_url": "http://images.example.org/val2017/b.png"},
            {"id": 3, "file_name": "val2017/bad.png"},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}],
        "annotations": annotations,
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(value))
    return path


def test_boxes_are_read_from_coco_and_lvis_and_what_is_left_out_is_counted(coco, caplog):
    found = read_regions(coco, coco.parent)
    assert found.names == ("cat", "dog")
    assert found.categories == (7, 9)
    assert [(r.key, r.label, r.box) for r in found.regions] == [("0", 0, (10, 10, 30, 40)), ("2", 1, (40, 40, 50, 50))]
    assert found.skipped == {
        "degenerate box": 3, "image missing or not readable": 1, "unknown image": 1, "unknown category": 1, "crowd": 1,
    }  # fmt: skip
    assert "left out 7 of 9 annotations" in caplog.text
    assert "bad.png: not readable as an image" in caplog.text


def test_another_structure_is_refused(tmp_path):
    (tmp_path / "boxes.json").write_text("[1]")
    with pytest.raises(UserError, match="COCO-style JSON"):
        read_regions(tmp_path / "boxes.json", tmp_path)


def test_regions_are_embedded_by_box_and_settings(coco, encoder, tmp_path, caplog):
    regions = read_regions(coco, coco.parent).regions
    args = RetrieverArgs(regions=PLAIN)
    vectors = embed_regions(encoder, regions, args, tmp_path)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert open_region(regions[0], PLAIN).size == (32, 32)
    caplog.set_level("INFO", "data_prep")
    assert np.array_equal(embed_regions(encoder, regions[::-1], args, tmp_path), vectors[::-1])
    assert "reusing 2 regions" in caplog.text
    embed_regions(encoder, regions, RetrieverArgs(), tmp_path)
    assert "computing 2 of 2 regions" in caplog.text
