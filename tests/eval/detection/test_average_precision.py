"""Average precision equals that of the official packages on perturbed ground truth."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest

from data_prep.core.errors import UserError
from eval.detection.average_precision import average_precision

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
IMAGES, CLASSES = 24, 13


def make_truth(seed: int) -> dict:
    """Makes objects of all sizes, crowds, images and classes without objects, and lists of absent classes."""
    rng = np.random.default_rng(seed)
    categories = [{"id": 3 * n + 2, "name": f"class {n}", "frequency": "rcf"[n % 3]} for n in range(CLASSES)]
    ids = [category["id"] for category in categories[:-1]]
    images, annotations = [], []
    for image in range(1, IMAGES + 1):
        for _ in range(rng.integers(0, 7)):
            width, height = np.exp(rng.uniform(np.log(8), np.log(260), 2))
            left, top = rng.uniform(0, 640 - width), rng.uniform(0, 640 - height)
            annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": int(rng.choice(ids))}
            annotation |= {"bbox": [left, top, width, height], "area": width * height * rng.uniform(0.6, 1)}
            annotations.append(annotation | {"iscrowd": int(rng.random() < 0.05)})
        present = {a["category_id"] for a in annotations if a["image_id"] == image}
        absent = [i for i in ids if i not in present and rng.random() < 0.6]
        not_exhaustive = [i for i in present if rng.random() < 0.2]
        images.append({"id": image, "width": 640, "height": 640, "file_name": f"{image}.jpg"})
        images[-1] |= {"neg_category_ids": absent, "not_exhaustive_category_ids": not_exhaustive}
    return {"images": images, "categories": categories, "annotations": annotations}


def perturb(truth: dict, seed: int) -> list[dict]:
    """Makes detections: boxes shifted, duplicated, missed or misclassified, tied scores, and false boxes."""
    rng = np.random.default_rng(seed)
    ids = [category["id"] for category in truth["categories"]]
    boxes = []
    for annotation in truth["annotations"]:
        for _ in range(rng.integers(0, 4)):
            scale = rng.choice([0.02, 0.1, 0.3])
            box = np.array(annotation["bbox"])
            box += rng.normal(0, scale, 4) * np.tile(box[2:], 2)
            box[2:] = np.maximum(box[2:], 2)
            category = annotation["category_id"] if rng.random() < 0.7 else int(rng.choice(ids))
            boxes.append((annotation["image_id"], category, box.tolist()))
    for _ in range(150):
        boxes.append((int(rng.integers(1, IMAGES + 1)), int(rng.choice(ids)), rng.uniform(5, 200, 4).tolist()))
    keys = ("image_id", "category_id", "bbox", "score")
    return [dict(zip(keys, (*box, round(float(rng.random()), 2)), strict=True)) for box in boxes]


def by_pycocotools(truth: dict, detections: list[dict], tmp_path, max_detections: int) -> dict[str, float]:
    coco, scoring = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    ground_truth = coco.COCO(str(path))
    official = scoring.COCOeval(ground_truth, ground_truth.loadRes(json.loads(json.dumps(detections))), "bbox")
    official.params.maxDets = [1, 10, max_detections]
    official.evaluate()
    official.accumulate()
    official.summarize()
    metrics = dict(zip(METRICS, official.stats[:6].tolist(), strict=True))
    if max_detections != 100:  # its summary of AP is fixed to 100 detections
        table = official.eval["precision"][:, :, :, 0, -1]
        metrics["AP"] = float(table[table > -1].mean())
    return metrics


def by_lvis(truth: dict, detections: list[dict], tmp_path, monkeypatch) -> dict[str, float]:
    """Runs the LVIS API, with stubs for OpenCV, which it needs for drawing only, and a name that numpy 2 removed."""
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))
    monkeypatch.setattr(np, "float", float, raising=False)
    lvis = pytest.importorskip("lvis")
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    official = lvis.LVISEval(str(path), json.loads(json.dumps(detections)), "bbox")
    official.run()
    return {name: float(official.results[name]) for name in (*METRICS, "APr", "APc", "APf")}


def agree(ours: dict, official: dict) -> bool:
    expected = {name: None if value == -1 else pytest.approx(value, abs=1e-6) for name, value in official.items()}
    return ours == expected


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rules", "max_detections"), [("coco", 100), ("v3det", 300)])
def test_coco_and_v3det_equal_pycocotools(rules, max_detections, seed, tmp_path):
    truth = make_truth(seed)
    detections = perturb(truth, 100 + seed)
    official = by_pycocotools(truth, detections, tmp_path, max_detections)
    assert 0.05 < official["AP"] < 0.9
    assert agree(average_precision(truth, detections, rules), official)


def by_v3dets_rule(truth: dict, detections: list[dict], tmp_path) -> dict[str, float]:
    """Runs pycocotools with the V3Det authors' rule: an ancestor's object is ignored in its detected descendants."""
    coco, scoring = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")

    class Official(scoring.COCOeval):
        def _prepare(self):
            super()._prepare()
            ancestors = {category["id"]: category["ancestors"] for category in truth["categories"]}
            added = [
                (image, category, dict(gt, ignore=1))
                for (image, category), detected in list(self._dts.items())
                for ancestor in ancestors[category]
                for gt in truth["annotations"]
                if detected and (gt["image_id"], gt["category_id"]) == (image, ancestor)
            ]
            for image, category, gt in added:
                self._gts[image, category].append(gt)

    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    ground_truth = coco.COCO(str(path))
    official = Official(ground_truth, ground_truth.loadRes(json.loads(json.dumps(detections))), "bbox")
    official.params.maxDets = [1, 10, 300]
    official.evaluate()
    official.accumulate()
    official.summarize()
    metrics = dict(zip(METRICS, official.stats[:6].tolist(), strict=True))
    table = official.eval["precision"][:, :, :, 0, -1]
    return metrics | {"AP": float(table[table > -1].mean())}


@pytest.mark.parametrize("seed", range(4))
def test_v3det_ignores_objects_of_ancestor_classes(seed, tmp_path):
    truth = make_truth(seed)
    ids = [category["id"] for category in truth["categories"]]
    for index, category in enumerate(truth["categories"]):
        category["ancestors"] = [ids[index // 2], ids[index // 4]][: index // 2] if index else []
    detections = perturb(truth, 100 + seed)
    ours = average_precision(truth, detections, "v3det")
    assert agree(ours, by_v3dets_rule(truth, detections, tmp_path))
    assert ours["AP"] > average_precision(truth, detections, "coco")["AP"]


def test_a_husky_detected_on_a_dog_is_ignored_and_a_dog_detected_on_a_husky_is_false():
    boxes = {"dog": [10, 10, 50, 50], "husky": [100, 10, 50, 50]}
    categories = [{"id": 1, "name": "dog", "ancestors": []}, {"id": 2, "name": "husky", "ancestors": [1]}]
    annotations = [
        {"id": n, "image_id": 1, "category_id": n, "bbox": box, "area": 2500, "iscrowd": 0}
        for n, box in enumerate(boxes.values(), 1)
    ]
    truth = {"images": [{"id": 1, "width": 200, "height": 100}], "categories": categories, "annotations": annotations}

    def detections(*classified):
        return [
            {"image_id": 1, "category_id": category, "bbox": boxes[box], "score": 1 - rank / 10}
            for rank, (category, box) in enumerate(classified)
        ]

    assert average_precision(truth, detections((2, "dog"), (2, "husky"), (1, "dog")), "v3det")["AP"] == pytest.approx(1)
    # An ancestor's class on a descendant's object is a false detection, and one object excuses one detection only.
    assert average_precision(truth, detections((1, "husky"), (1, "dog"), (2, "husky")), "v3det")["AP"] < 1
    assert average_precision(truth, detections((2, "dog"), (2, "dog"), (2, "husky"), (1, "dog")), "v3det")["AP"] < 1


@pytest.mark.parametrize("rules", ["coco", "lvis", "v3det"])
def test_ids_of_annotations_do_not_matter(rules):
    truth = make_truth(1)
    detections = perturb(truth, 5)
    metrics = average_precision(truth, detections, rules)
    for annotation in truth["annotations"]:
        annotation["id"] -= 1
    assert average_precision(truth, detections, rules) == metrics


@pytest.mark.parametrize("seed", range(4))
def test_lvis_equals_the_lvis_api(seed, tmp_path, monkeypatch):
    truth = make_truth(seed)
    for annotation in truth["annotations"]:
        del annotation["iscrowd"]
    detections = perturb(truth, 200 + seed)
    official = by_lvis(truth, detections, tmp_path, monkeypatch)
    assert 0.05 < official["AP"] < 0.9
    assert agree(average_precision(truth, detections, "lvis"), official)


@pytest.mark.parametrize("rules", ["coco", "lvis", "v3det"])
def test_detections_above_the_maximum_are_cut_as_in_the_official_packages(rules, tmp_path, monkeypatch):
    truth = make_truth(9)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    rng = np.random.default_rng(5)
    annotation = truth["annotations"][0]
    crowd = [annotation | {"bbox": rng.uniform(5, 200, 4).tolist(), "score": float(rng.random())} for _ in range(700)]
    keys = ("image_id", "category_id", "bbox", "score")
    detections = [{key: record[key] for key in keys} for record in crowd] + perturb(truth, 6)
    if rules == "lvis":
        official = by_lvis(truth, detections, tmp_path, monkeypatch)
    else:
        official = by_pycocotools(truth, detections, tmp_path, {"coco": 100, "v3det": 300}[rules])
    assert agree(average_precision(truth, detections, rules), official)


@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_the_block_size_does_not_change_the_metrics(rules):
    truth = make_truth(2)
    detections = perturb(truth, 3)
    assert average_precision(truth, detections, rules, block=2) == average_precision(truth, detections, rules)


def test_the_ground_truth_has_ap_1_and_no_detections_have_ap_0():
    truth = make_truth(1)
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    before = json.dumps(truth)
    perfect = [a | {"score": 1.0} for a in truth["annotations"]]
    for rules in ("coco", "lvis", "v3det"):
        assert average_precision(truth, perfect, rules)["AP"] == pytest.approx(1)
        assert average_precision(truth, [], rules)["AP"] == 0
    assert json.dumps(truth) == before


def test_the_ap_of_a_size_without_objects_is_none():
    truth = make_truth(1)
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] < 32**2]
    metrics = average_precision(truth, [], "lvis")
    assert metrics["APs"] == 0 and metrics["APl"] is None


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match="rar-train\\[detection\\]"):
        average_precision(make_truth(0), [], "coco")
