"""Average precision equals that of the official packages, on perturbed ground truth."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest

from data_prep.core.errors import UserError
from eval.detection.average_precision import average_precision

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
IMAGES, CLASSES = 24, 13


def made_truth(seed: int) -> dict:
    """Objects of all sizes, crowds, images without any, classes without any, and lists of absent classes."""
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
        vague = [i for i in present if rng.random() < 0.2]
        images.append({"id": image, "width": 640, "height": 640, "file_name": f"{image}.jpg"})
        images[-1] |= {"neg_category_ids": absent, "not_exhaustive_category_ids": vague}
    return {"images": images, "categories": categories, "annotations": annotations}


def perturbed(truth: dict, seed: int) -> list[dict]:
    """Boxes moved a little or a lot, doubled, missed, named wrongly, with tied scores, and boxes of nothing."""
    rng = np.random.default_rng(seed)
    ids = [category["id"] for category in truth["categories"]]
    found = []
    for annotation in truth["annotations"]:
        for _ in range(rng.integers(0, 4)):
            scale = rng.choice([0.02, 0.1, 0.3])
            box = np.array(annotation["bbox"])
            box += rng.normal(0, scale, 4) * np.tile(box[2:], 2)
            box[2:] = np.maximum(box[2:], 2)
            category = annotation["category_id"] if rng.random() < 0.7 else int(rng.choice(ids))
            found.append((annotation["image_id"], category, box.tolist()))
    for _ in range(150):
        found.append((int(rng.integers(1, IMAGES + 1)), int(rng.choice(ids)), rng.uniform(5, 200, 4).tolist()))
    keys = ("image_id", "category_id", "bbox", "score")
    return [dict(zip(keys, (*one, round(float(rng.random()), 2)), strict=True)) for one in found]


def by_pycocotools(truth: dict, detections: list[dict], tmp_path, most: int) -> dict[str, float]:
    coco, scoring = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    whole = coco.COCO(str(path))
    official = scoring.COCOeval(whole, whole.loadRes(json.loads(json.dumps(detections))), "bbox")
    official.params.maxDets = [1, 10, most]
    official.evaluate()
    official.accumulate()
    official.summarize()
    metrics = dict(zip(FIGURES, official.stats[:6].tolist(), strict=True))
    if most != 100:  # its summary of the first figure asks for 100 detections, whatever the setting
        table = official.eval["precision"][:, :, :, 0, -1]
        metrics["AP"] = float(table[table > -1].mean())
    return metrics


def by_lvis(truth: dict, detections: list[dict], tmp_path, monkeypatch) -> dict[str, float]:
    """The LVIS API, helped over what it has no need of: OpenCV, for drawing, and a name that numpy 2 dropped."""
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))
    monkeypatch.setattr(np, "float", float, raising=False)
    lvis = pytest.importorskip("lvis")
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    official = lvis.LVISEval(str(path), json.loads(json.dumps(detections)), "bbox")
    official.run()
    return {name: float(official.results[name]) for name in (*FIGURES, "APr", "APc", "APf")}


def same(ours: dict, official: dict) -> bool:
    shown = {name: None if value == -1 else pytest.approx(value, abs=1e-6) for name, value in official.items()}
    return ours == shown


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rules", "most"), [("coco", 100), ("v3det", 300)])
def test_coco_and_v3det_equal_pycocotools(rules, most, seed, tmp_path):
    truth = made_truth(seed)
    detections = perturbed(truth, 100 + seed)
    official = by_pycocotools(truth, detections, tmp_path, most)
    assert 0.05 < official["AP"] < 0.9
    assert same(average_precision(truth, detections, rules), official)


def by_v3dets_rule(truth: dict, detections: list[dict], tmp_path) -> dict[str, float]:
    """pycocotools with the rule of V3Det's authors: detected descendants have an ancestor's object to be ignored."""
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
    whole = coco.COCO(str(path))
    official = Official(whole, whole.loadRes(json.loads(json.dumps(detections))), "bbox")
    official.params.maxDets = [1, 10, 300]
    official.evaluate()
    official.accumulate()
    official.summarize()
    metrics = dict(zip(FIGURES, official.stats[:6].tolist(), strict=True))
    table = official.eval["precision"][:, :, :, 0, -1]
    return metrics | {"AP": float(table[table > -1].mean())}


@pytest.mark.parametrize("seed", range(4))
def test_v3det_ignores_objects_of_ancestor_classes(seed, tmp_path):
    truth = made_truth(seed)
    ids = [category["id"] for category in truth["categories"]]
    for place, category in enumerate(truth["categories"]):
        category["ancestors"] = [ids[place // 2], ids[place // 4]][: place // 2] if place else []
    detections = perturbed(truth, 100 + seed)
    ours = average_precision(truth, detections, "v3det")
    assert same(ours, by_v3dets_rule(truth, detections, tmp_path))
    assert ours["AP"] > average_precision(truth, detections, "coco")["AP"]


def test_a_husky_on_an_annotated_dog_does_not_count_and_a_dog_on_a_husky_does():
    boxes = {"dog": [10, 10, 50, 50], "husky": [100, 10, 50, 50]}
    categories = [{"id": 1, "name": "dog", "ancestors": []}, {"id": 2, "name": "husky", "ancestors": [1]}]
    annotations = [
        {"id": n, "image_id": 1, "category_id": n, "bbox": box, "area": 2500, "iscrowd": 0}
        for n, box in enumerate(boxes.values(), 1)
    ]
    truth = {"images": [{"id": 1, "width": 200, "height": 100}], "categories": categories, "annotations": annotations}

    def detected(*named):
        return [
            {"image_id": 1, "category_id": category, "bbox": boxes[where], "score": 1 - place / 10}
            for place, (category, where) in enumerate(named)
        ]

    assert average_precision(truth, detected((2, "dog"), (2, "husky"), (1, "dog")), "v3det")["AP"] == pytest.approx(1)
    # An ancestor's name on a descendant's object stays a false detection, and one object excuses one detection.
    assert average_precision(truth, detected((1, "husky"), (1, "dog"), (2, "husky")), "v3det")["AP"] < 1
    assert average_precision(truth, detected((2, "dog"), (2, "dog"), (2, "husky"), (1, "dog")), "v3det")["AP"] < 1


@pytest.mark.parametrize("rules", ["coco", "lvis", "v3det"])
def test_ids_of_annotations_do_not_matter(rules):
    truth = made_truth(1)
    detections = perturbed(truth, 5)
    metrics = average_precision(truth, detections, rules)
    for annotation in truth["annotations"]:
        annotation["id"] -= 1
    assert average_precision(truth, detections, rules) == metrics


@pytest.mark.parametrize("seed", range(4))
def test_lvis_equals_the_lvis_api(seed, tmp_path, monkeypatch):
    truth = made_truth(seed)
    for annotation in truth["annotations"]:
        del annotation["iscrowd"]
    detections = perturbed(truth, 200 + seed)
    official = by_lvis(truth, detections, tmp_path, monkeypatch)
    assert 0.05 < official["AP"] < 0.9
    assert same(average_precision(truth, detections, "lvis"), official)


@pytest.mark.parametrize("rules", ["coco", "lvis", "v3det"])
def test_more_detections_than_count_are_cut_as_officially(rules, tmp_path, monkeypatch):
    truth = made_truth(9)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    rng = np.random.default_rng(5)
    one = truth["annotations"][0]
    crowd = [one | {"bbox": rng.uniform(5, 200, 4).tolist(), "score": float(rng.random())} for _ in range(700)]
    keys = ("image_id", "category_id", "bbox", "score")
    detections = [{key: record[key] for key in keys} for record in crowd] + perturbed(truth, 6)
    most = {"coco": 100, "v3det": 300}.get(rules)
    official = (
        by_pycocotools(truth, detections, tmp_path, most) if most else by_lvis(truth, detections, tmp_path, monkeypatch)
    )
    assert same(average_precision(truth, detections, rules), official)


@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_blocks_of_classes_give_the_same_figures(rules):
    truth = made_truth(2)
    detections = perturbed(truth, 3)
    assert average_precision(truth, detections, rules, block=2) == average_precision(truth, detections, rules)


def test_the_truth_itself_is_perfect_and_nothing_is_nothing():
    truth = made_truth(1)
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    before = json.dumps(truth)
    perfect = [a | {"score": 1.0} for a in truth["annotations"]]
    for rules in ("coco", "lvis", "v3det"):
        assert average_precision(truth, perfect, rules)["AP"] == pytest.approx(1)
        assert average_precision(truth, [], rules)["AP"] == 0
    assert json.dumps(truth) == before


def test_a_kind_of_object_that_is_not_there_has_no_figure():
    truth = made_truth(1)
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] < 32**2]
    metrics = average_precision(truth, [], "lvis")
    assert metrics["APs"] == 0 and metrics["APl"] is None


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match="rar-train\\[detection\\]"):
        average_precision(made_truth(0), [], "coco")
