"""Boxes to be named, of annotations and of a detector; and what is left out of them."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.detection.annotations import read_annotations
from data_prep.detection.proposals import annotated_boxes, detected_boxes
from tests.data_prep.detection_files import write_coco, write_lvis, write_v3det


@pytest.fixture
def coco(tmp_path):
    return read_annotations(write_coco(tmp_path), "coco")


def test_annotated_boxes_keep_their_numbers_and_are_cut_inside_the_image(coco, tmp_path, caplog):
    found = annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "skip")
    assert [(p.image, p.bbox, p.region.box, p.region.label, p.score) for p in found.found] == [
        (139, (10.5, 10, 20, 30), (10.5, 10, 30.5, 40), 0, 1),
        (285, (40, 40, 12.5, 12.5), (40, 40, 50, 50), 1, 1),
    ]
    assert found.found[0].region.digest == file_hash(tmp_path / "val2017/000000000001.jpg")
    assert found.skipped == {"crowd": 1, "box without a pixel in its image": 1}
    assert "left out 2 of 4" in caplog.text


@pytest.mark.parametrize(("form", "write", "count"), [("lvis", write_lvis, 2), ("v3det", write_v3det, 1)])
def test_images_are_found_as_lvis_and_v3det_name_them(form, write, count, tmp_path):
    annotations = read_annotations(write(tmp_path), form)
    assert len(annotated_boxes(annotations, tmp_path, tmp_path / "cache", "raise").found) == count


def test_file_names_written_on_windows_are_found(tmp_path):
    path = write_coco(tmp_path)
    path.write_text(path.read_text().replace('"0000', '"val2017\\\\0000'))
    annotations = read_annotations(path, "coco")
    assert annotations.truth["images"][0]["file_name"] == "val2017\\000000000001.jpg"
    assert len(annotated_boxes(annotations, tmp_path, tmp_path / "cache", "raise").found) == 2


def test_a_missing_image_is_named_with_what_to_give(coco, tmp_path):
    with pytest.raises(UserError, match=r"000000000001\.jpg: no such image \(2 of 2 are missing\); give as --images"):
        annotated_boxes(coco, tmp_path, tmp_path / "cache", "skip")


def test_an_unreadable_image_is_counted_or_refused(coco, tmp_path):
    (tmp_path / "val2017/000000000002.jpg").write_bytes(b"no image")
    found = annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "skip")
    assert len(found.found) == 1 and found.skipped["image not readable"] == 1
    with pytest.raises(UserError, match=r"000000000002\.jpg: not readable as an image"):
        annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "raise")


def test_an_image_of_another_size_than_its_record_says_is_not_cut(coco, tmp_path):
    """Else boxes would be cut from the wrong place and nobody would see it."""
    path = tmp_path / "val2017/000000000001.jpg"
    Image.open(path).resize((40, 30)).save(path)
    found = annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "skip")
    assert found.skipped["image of another size than its record says"] == 2
    with pytest.raises(UserError, match="is 40 x 30 pixels as shown, but 80 x 60 by its record"):
        annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "raise")


def test_no_box_left_is_an_error(coco, tmp_path):
    for path in (tmp_path / "val2017").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"no box is left to name .*image not readable"):
        annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "skip")


def test_a_detectors_boxes_count_once_the_best_first(coco, tmp_path):
    boxes = [([10, 10, 20, 20], 0.3, 1), ([10, 10, 20, 20], 0.9, 90), ([0, 0, 9, 9], 0.5, 1), ([1, 1, 9, 9], 0.1, 1)]
    detections = [{"image_id": 139, "bbox": b, "score": s, "category_id": c} for b, s, c in boxes]
    detections.append({"image_id": 285, "bbox": [90, 90, 5, 5], "score": 1.0})
    found = detected_boxes(coco, detections, 2, tmp_path / "val2017", tmp_path / "cache", "skip")
    assert [(p.bbox, p.score, p.region.label) for p in found.found] == [
        ((10, 10, 20, 20), 0.9, -1),
        ((0, 0, 9, 9), 0.5, -1),
    ]
    assert found.skipped == {"beyond detection.max_proposals": 1, "box without a pixel in its image": 1}


def test_a_sideways_photo_is_measured_as_it_is_shown(tmp_path):
    path = write_coco(tmp_path)
    photo = tmp_path / "val2017/000000000001.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 80)).save(photo, exif=exif)
    found = annotated_boxes(read_annotations(path, "coco"), tmp_path / "val2017", tmp_path / "cache", "raise")
    assert len(found.found) == 2
    assert json.loads(path.read_text())["images"][0]["width"] == 80


@pytest.mark.parametrize("odd", ["folder", "pipe", "broken link"])
def test_what_is_no_file_is_counted_as_an_image_that_cannot_be_shown(coco, tmp_path, odd):
    path = tmp_path / "val2017/000000000002.jpg"
    path.unlink()
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "broken link": lambda: path.symlink_to("gone")}
    make[odd]()
    found = annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "skip")
    assert len(found.found) == 1 and found.skipped["image not readable"] == 1


def test_an_impossible_file_name_is_counted(tmp_path):
    path = write_coco(tmp_path)
    path.write_text(path.read_text().replace("000000000002.jpg", "x" * 300))
    found = annotated_boxes(read_annotations(path, "coco"), tmp_path / "val2017", tmp_path / "cache", "skip")
    assert found.skipped["image not readable"] == 1
