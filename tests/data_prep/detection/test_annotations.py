"""Annotation files in the real layouts are read, and broken ones are refused with a clear error."""

from __future__ import annotations

import json
import operator
from functools import reduce

import pytest

from data_prep.core.errors import UserError
from data_prep.detection.annotations import CATEGORY_TREE, read_annotations, read_detections, readable_name
from data_prep.detection.proposals import read_annotated_boxes
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
def test_classes_are_read_in_order_of_id_with_readable_names(form, names, categories, tmp_path):
    annotations = read_annotations(WRITERS[form](tmp_path), form)
    assert annotations.names == names and annotations.categories == categories
    texts = tuple(name.removesuffix(" (2)") for name in names)
    assert annotations.texts == texts, "the number is no use to the encoder"
    assert annotations.label_of[categories[-1]] == len(categories) - 1


def test_lvis_synonyms_exclude_the_name_itself_and_duplicates(tmp_path):
    assert read_annotations(write_lvis(tmp_path), "lvis").synonyms == {0: (), 1: ("wake-up clock",), 2: ("longbow",)}


def test_v3det_annotations_get_ids_for_scoring(tmp_path):
    truth = read_annotations(write_v3det(tmp_path), "v3det").truth
    assert [annotation["id"] for annotation in truth["annotations"]] == [1]


def test_v3det_categories_get_their_ancestors_if_the_category_tree_is_present(tmp_path, caplog):
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
    valid = {"7": "n01", "8": "n03"}
    for ids, descendants in (({}, None), ({"7": ["n01"]}, {}), (valid, {"n01": [["n03"]]}), (valid, {"n01": None})):
        tree = {"categoryid2treeid": ids, "ancestor2descendant": descendants}
        (tmp_path / CATEGORY_TREE).write_text(json.dumps(tree))
        with pytest.raises(UserError, match=f"{CATEGORY_TREE}: must have categoryid2treeid and ancestor2descendant"):
            read_annotations(path, "v3det")


def test_a_byte_order_mark_before_the_json_is_ignored(tmp_path):
    path = write_coco(tmp_path)
    path.write_text("\ufeff" + path.read_text())
    assert read_annotations(path, "coco").names == ("person", "toothbrush")


def test_underscores_and_invisible_characters_are_removed_from_names():
    assert readable_name("bow_(weapon)") == "bow (weapon)"
    assert readable_name(" hot__dog ") == "hot dog"
    assert readable_name("jalapen\u0303o_\u200b") == "jalapeño"


def test_optional_keys_may_be_null(tmp_path):
    path = write_coco(tmp_path)
    truth = json.loads(path.read_text())
    detections = [{"image_id": 139, "category_id": 1, "bbox": [10.5, 10, 20, 30], "score": 0.9}]
    expected = average_precision(truth, detections, "coco")
    truth["annotations"][1]["iscrowd"] = truth["categories"][1]["synonyms"] = None
    path.write_text(json.dumps(truth))
    annotations = read_annotations(path, "coco")
    assert len(read_annotated_boxes(annotations, tmp_path / "val2017", tmp_path / "cache", "skip").found) == 2
    assert average_precision(annotations.truth, detections, "coco") == expected


_MISSING = object()


@pytest.mark.parametrize(
    ("form", "keys", "value", "message"),
    [
        ("coco", ("images",), _MISSING, r"has no images; it must be COCO-style JSON .*cocodataset\.org"),
        ("coco", ("annotations",), [], r"has no annotations"),
        ("coco", ("images", 1, "width"), 0, r"images\[1\]: width is 0, but must be a number of pixels"),
        ("coco", ("images", 1, "file_name"), _MISSING, r"images\[1\]: names no file"),
        ("coco", ("images", 1, "id"), 139, r"images\[1\]: has the id 139 of .*images\[0\]"),
        ("coco", ("categories", 0, "name"), " ", r"categories\[0\]: name is ' ', but must be a name"),
        ("coco", ("annotations", 2, "bbox"), [1, 2, 3], r"annotations\[2\]: bbox is \[1, 2, 3\], but must be left"),
        ("coco", ("annotations", 2, "bbox", 0), float("nan"), r"annotations\[2\]: bbox is \[nan"),
        ("coco", ("annotations", 3, "area"), _MISSING, r"annotations\[3\]: area is missing"),
        ("coco", ("annotations", 3), 5, r"annotations\[3\]: not a record"),
        ("coco", ("annotations", 0, "image_id"), 7, r"annotations\[0\]: image_id 7 is not among the images"),
        ("coco", ("annotations", 0, "category_id"), 7, r"category_id 7 is not among the categories"),
        ("coco", ("categories", 0, "name"), "_\u200b", r"categories\[0\]: name is '_.*', but must be a name"),
        ("coco", ("annotations", 0, "iscrowd"), "0", r"annotations\[0\]: iscrowd is '0', but must be 0 or 1"),
        ("coco", ("annotations", 0, "iscrowd"), [1], r"annotations\[0\]: iscrowd is \[1\]"),
        ("lvis", ("categories", 1, "synonyms"), "clock", r"categories\[1\]: synonyms is 'clock', but must be a list"),
        ("lvis", ("categories", 2, "frequency"), _MISSING, r"categories\[2\]: frequency is missing.*lvisdataset\.org"),
        ("lvis", ("images", 0, "neg_category_ids"), None, r"images\[0\]: neg_category_ids is None"),
        ("v3det", ("annotations", 0, "bbox"), None, r"annotations\[0\]: bbox is None.*github\.com/V3Det"),
    ],
)
def test_the_error_about_a_broken_file_names_the_record(form, keys, value, message, tmp_path):
    path = WRITERS[form](tmp_path)
    truth = json.loads(path.read_text())
    parent = reduce(operator.getitem, keys[:-1], truth)
    if value is _MISSING:
        del parent[keys[-1]]
    else:
        parent[keys[-1]] = value
    path.write_text(json.dumps(truth))
    with pytest.raises(UserError, match=message) as raised:
        read_annotations(path, form)
    assert path.name in str(raised.value)


def test_the_error_about_a_missing_file_says_where_to_download_the_data_set(tmp_path):
    with pytest.raises(UserError, match=r"lvis_v1_val\.json: no such annotation file; Download LVIS v1 from"):
        read_annotations(tmp_path / "lvis_v1_val.json", "lvis")


def test_coco_read_as_lvis_is_refused(tmp_path):
    with pytest.raises(UserError, match="neg_category_ids is missing"):
        read_annotations(write_coco(tmp_path), "lvis")


@pytest.mark.parametrize(
    ("value", "message"),
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
def test_the_error_about_a_broken_result_file_names_the_record(value, message, tmp_path):
    annotations = read_annotations(write_coco(tmp_path), "coco")
    path = tmp_path / "detector.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=message) as raised:
        read_detections(path, annotations)
    assert "detector.json" in str(raised.value)
