"""Box proposals from annotations and from a detector, and which boxes are left out."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.detection.annotations import read_annotations
from data_prep.detection.proposals import read_annotated_boxes, select_detected_boxes
from tests.data_prep.detection_files import write_coco, write_lvis, write_v3det


@pytest.fixture
def coco(tmp_path):
    return read_annotations(write_coco(tmp_path), "coco")


def test_annotated_boxes_keep_their_coordinates_and_their_regions_are_clamped_to_the_image(coco, tmp_path, caplog):
    proposals = read_annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "skip")
    assert [(p.image, p.bbox, p.region.box, p.region.label, p.score) for p in proposals.found] == [
        (139, (10.5, 10, 20, 30), (10.5, 10, 30.5, 40), 0, 1),
        (285, (40, 40, 12.5, 12.5), (40, 40, 50, 50), 1, 1),
    ]
    assert proposals.found[0].region.digest == file_hash(tmp_path / "val2017/000000000001.jpg")
    assert proposals.skipped == {"crowd": 1, "box without a pixel in its image": 1}
    assert "left out 2 of 4" in caplog.text


@pytest.mark.parametrize(("form", "write", "count"), [("lvis", write_lvis, 2), ("v3det", write_v3det, 1)])
def test_images_are_found_by_the_file_names_of_lvis_and_v3det(form, write, count, tmp_path):
    annotations = read_annotations(write(tmp_path), form)
    assert len(read_annotated_boxes(annotations, tmp_path, tmp_path / "cache", "raise").found) == count


def test_file_names_written_on_windows_are_found(tmp_path):
    path = write_coco(tmp_path)
    path.write_text(path.read_text().replace('"0000', '"val2017\\\\0000'))
    annotations = read_annotations(path, "coco")
    assert annotations.truth["images"][0]["file_name"] == "val2017\\000000000001.jpg"
    assert len(read_annotated_boxes(annotations, tmp_path, tmp_path / "cache", "raise").found) == 2


def test_the_error_about_a_missing_image_names_it_and_the_option(coco, tmp_path):
    with pytest.raises(UserError, match=r"000000000001\.jpg: no such image \(2 of 2 are missing\); pass as --images"):
        read_annotated_boxes(coco, tmp_path, tmp_path / "cache", "skip")


def test_an_unreadable_image_is_counted_or_refused(coco, tmp_path):
    (tmp_path / "val2017/000000000002.jpg").write_bytes(b"no image")
    proposals = read_annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "skip")
    assert len(proposals.found) == 1 and proposals.skipped["image not readable"] == 1
    with pytest.raises(UserError, match=r"000000000002\.jpg: not readable as an image"):
        read_annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "raise")


def test_an_image_of_another_size_than_its_record_says_is_not_cropped(coco, tmp_path):
    """Otherwise regions would be cropped at the wrong position without anyone noticing."""
    path = tmp_path / "val2017/000000000001.jpg"
    Image.open(path).resize((40, 30)).save(path)
    proposals = read_annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "skip")
    assert proposals.skipped["image of another size than its record says"] == 2
    with pytest.raises(UserError, match="is 40 x 30 pixels as shown, but 80 x 60 by its record"):
        read_annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "raise")


def test_it_is_an_error_if_no_box_is_left(coco, tmp_path):
    for path in (tmp_path / "val2017").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"no box is left to classify .*image not readable"):
        read_annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "skip")


def test_a_detectors_repeated_boxes_count_once_and_the_best_come_first(coco, tmp_path):
    boxes = [([10, 10, 20, 20], 0.3, 1), ([10, 10, 20, 20], 0.9, 90), ([0, 0, 9, 9], 0.5, 1), ([1, 1, 9, 9], 0.1, 1)]
    detections = [{"image_id": 139, "bbox": b, "score": s, "category_id": c} for b, s, c in boxes]
    detections.append({"image_id": 285, "bbox": [90, 90, 5, 5], "score": 1.0})
    proposals = select_detected_boxes(coco, detections, 2, tmp_path / "val2017", tmp_path / "cache", "skip")
    assert [(p.bbox, p.score, p.region.label) for p in proposals.found] == [
        ((10, 10, 20, 20), 0.9, -1),
        ((0, 0, 9, 9), 0.5, -1),
    ]
    assert proposals.skipped == {"beyond detection.max_proposals": 1, "box without a pixel in its image": 1}


def test_the_size_of_a_rotated_photo_is_the_size_after_rotation(tmp_path):
    path = write_coco(tmp_path)
    photo = tmp_path / "val2017/000000000001.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 80)).save(photo, exif=exif)
    proposals = read_annotated_boxes(read_annotations(path, "coco"), tmp_path / "val2017", tmp_path / "cache", "raise")
    assert len(proposals.found) == 2
    assert json.loads(path.read_text())["images"][0]["width"] == 80


@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link"])
def test_a_path_that_is_not_a_file_counts_as_an_unreadable_image(coco, tmp_path, kind):
    path = tmp_path / "val2017/000000000002.jpg"
    path.unlink()
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "broken link": lambda: path.symlink_to("missing")}
    make[kind]()
    proposals = read_annotated_boxes(coco, tmp_path / "val2017", tmp_path / "cache", "skip")
    assert len(proposals.found) == 1 and proposals.skipped["image not readable"] == 1


def test_an_impossible_file_name_is_counted(tmp_path):
    path = write_coco(tmp_path)
    path.write_text(path.read_text().replace("000000000002.jpg", "x" * 300))
    proposals = read_annotated_boxes(read_annotations(path, "coco"), tmp_path / "val2017", tmp_path / "cache", "skip")
    assert proposals.skipped["image not readable"] == 1
