"""Annotation files in the real layouts, and what is said about broken ones."""

from __future__ import annotations

import json
import operator
from functools import reduce

import pytest

from data_prep.core.errors import UserError
from data_prep.detection.annotations import CATEGORY_TREE, read_annotations, read_detections, readable_name
from data_prep.detection.proposals import annotated_boxes
from eval.detection.average_precision import average_precision
from tests.data_prep.detection_files import write_coco, write_lvis, write_v3det

WRITERS = {"coco": write_coco, "lvis": write_lvis, "v3det": write_v3det}


@pytest.mark.parametrize(
    ("form", "names", "categories"),
    [
        ("coco", ("person", "toothbrush"), (1, 90)),
        ("lvis", ("bow (weapon)", "alarm clock", "bow (weapon) (2)"), (1, 2, 3)),
        ("v3det", ("star fruit", "ballista"), (7, 8)),
    ],
)
def test_classes_are_read_by_id_with_names_that_one_would_write(form, names, categories, tmp_path):
    found = read_annotations(WRITERS[form](tmp_path), form)
    assert found.names == names and found.categories == categories
    assert found.texts == tuple(name.removesuffix(" (2)") for name in names), "the number tells the encoder nothing"
    assert found.label_of[categories[-1]] == len(categories) - 1


def test_lvis_has_synonyms_without_its_name_and_doubles(tmp_path):
    assert read_annotations(write_lvis(tmp_path), "lvis").synonyms == {0: (), 1: ("wake-up clock",), 2: ("longbow",)}


def test_v3dets_annotations_get_ids_for_scoring(tmp_path):
    truth = read_annotations(write_v3det(tmp_path), "v3det").truth
    assert [annotation["id"] for annotation in truth["annotations"]] == [1]


def test_v3dets_categories_know_their_ancestors_where_the_tree_is(tmp_path, caplog):
    path = write_v3det(tmp_path)
    categories = read_annotations(path, "v3det").truth["categories"]
    assert not any("ancestors" in category for category in categories)
    assert f"{CATEGORY_TREE}: no such file" in caplog.text
    tree = {
        "categoryid2treeid": {"7": "n01", "8": "n03"},
        "ancestor2descendant": {"n00": ["n01", "n02", "n03"], "n01": ["n02", "n03"], "n02": ["n03"], "n03": []},
    }
    (tmp_path / CATEGORY_TREE).write_text(json.dumps(tree))
    categories = read_annotations(path, "v3det").truth["categories"]
    assert {category["id"]: category["ancestors"] for category in categories} == {7: [], 8: [7]}
    whole = {"7": "n01", "8": "n03"}
    for ids, below in (({}, None), ({"7": ["n01"]}, {}), (whole, {"n01": [["n03"]]}), (whole, {"n01": None})):
        (tmp_path / CATEGORY_TREE).write_text(json.dumps({"categoryid2treeid": ids, "ancestor2descendant": below}))
        with pytest.raises(UserError, match=f"{CATEGORY_TREE}: must have categoryid2treeid and ancestor2descendant"):
            read_annotations(path, "v3det")


def test_a_byte_order_mark_before_the_json_is_read_over(tmp_path):
    path = write_coco(tmp_path)
    path.write_text("\ufeff" + path.read_text())
    assert read_annotations(path, "coco").names == ("person", "toothbrush")


def test_names_are_readable():
    assert readable_name("bow_(weapon)") == "bow (weapon)"
    assert readable_name(" hot__dog ") == "hot dog"
    assert readable_name("jalapen\u0303o_\u200b") == "jalapeño"


def test_keys_that_may_be_missing_may_be_null(tmp_path):
    path = write_coco(tmp_path)
    truth = json.loads(path.read_text())
    detections = [{"image_id": 139, "category_id": 1, "bbox": [10.5, 10, 20, 30], "score": 0.9}]
    as_it_was = average_precision(truth, detections, "coco")
    truth["annotations"][1]["iscrowd"] = truth["categories"][1]["synonyms"] = None
    path.write_text(json.dumps(truth))
    found = read_annotations(path, "coco")
    assert len(annotated_boxes(found, tmp_path / "val2017", tmp_path / "cache", "skip").found) == 2
    assert average_precision(found.truth, detections, "coco") == as_it_was


_GONE = object()


@pytest.mark.parametrize(
    ("form", "place", "value", "said"),
    [
        ("coco", ("images",), _GONE, r"has no images; it must be COCO-style JSON .*cocodataset\.org"),
        ("coco", ("annotations",), [], r"has no annotations"),
        ("coco", ("images", 1, "width"), 0, r"images\[1\]: width is 0, but must be a number of pixels"),
        ("coco", ("images", 1, "file_name"), _GONE, r"images\[1\]: names no file"),
        ("coco", ("images", 1, "id"), 139, r"images\[1\]: has the id 139 of .*images\[0\]"),
        ("coco", ("categories", 0, "name"), " ", r"categories\[0\]: name is ' ', but must be a name"),
        ("coco", ("annotations", 2, "bbox"), [1, 2, 3], r"annotations\[2\]: bbox is \[1, 2, 3\], but must be left"),
        ("coco", ("annotations", 2, "bbox", 0), float("nan"), r"annotations\[2\]: bbox is \[nan"),
        ("coco", ("annotations", 3, "area"), _GONE, r"annotations\[3\]: area is missing"),
        ("coco", ("annotations", 3), 5, r"annotations\[3\]: not a record"),
        ("coco", ("annotations", 0, "image_id"), 7, r"annotations\[0\]: image_id 7 is not among the images"),
        ("coco", ("annotations", 0, "category_id"), 7, r"category_id 7 is not among the categories"),
        ("coco", ("categories", 0, "name"), "_\u200b", r"categories\[0\]: name is '_.*', but must be a name"),
        ("coco", ("annotations", 0, "iscrowd"), "0", r"annotations\[0\]: iscrowd is '0', but must be 0 or 1"),
        ("coco", ("annotations", 0, "iscrowd"), [1], r"annotations\[0\]: iscrowd is \[1\]"),
        ("lvis", ("categories", 1, "synonyms"), "clock", r"categories\[1\]: synonyms is 'clock', but must be a list"),
        ("lvis", ("categories", 2, "frequency"), _GONE, r"categories\[2\]: frequency is missing.*lvisdataset\.org"),
        ("lvis", ("images", 0, "neg_category_ids"), None, r"images\[0\]: neg_category_ids is None"),
        ("v3det", ("annotations", 0, "bbox"), None, r"annotations\[0\]: bbox is None.*github\.com/V3Det"),
    ],
)
def test_a_broken_file_is_refused_by_record(form, place, value, said, tmp_path):
    path = WRITERS[form](tmp_path)
    truth = json.loads(path.read_text())
    holder = reduce(operator.getitem, place[:-1], truth)
    if value is _GONE:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    path.write_text(json.dumps(truth))
    with pytest.raises(UserError, match=said) as raised:
        read_annotations(path, form)
    assert path.name in str(raised.value)


def test_a_missing_file_says_where_the_data_set_is_had(tmp_path):
    with pytest.raises(UserError, match=r"lvis_v1_val\.json: no such annotation file; LVIS v1 is had from"):
        read_annotations(tmp_path / "lvis_v1_val.json", "lvis")


def test_coco_read_as_lvis_is_refused(tmp_path):
    with pytest.raises(UserError, match="neg_category_ids is missing"):
        read_annotations(write_coco(tmp_path), "lvis")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "not a list"),
        ([{"image_id": 139, "bbox": [0, 0, 5, 5]}], r"\[0\]: score is missing"),
        ([{"image_id": 139, "bbox": [0, 0, 5, 5], "score": 7.1}], r"\[0\]: score is 7\.1, but must be a number from 0"),
        (
            [{"image_id": 139, "category_id": [1], "bbox": [0, 0, 5, 5], "score": 0.5}],
            r"\[0\]: category_id is \[1\], but must be a whole number",
        ),
        (
            [{"image_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}],
            r"\[0\]: image_id 1 is not an image of .*val2017",
        ),
    ],
)
def test_a_broken_result_file_is_refused_by_record(value, said, tmp_path):
    annotations = read_annotations(write_coco(tmp_path), "coco")
    path = tmp_path / "detector.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=said) as raised:
        read_detections(path, annotations)
    assert "detector.json" in str(raised.value)
