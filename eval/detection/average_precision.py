"""Average precision by the data sets' own rules, counted by faster-coco-eval.

It is a kept successor of ``pycocotools`` and ``lvis`` (the latter no longer runs with numpy 2) and gives the same
figures; ``tests/eval/test_average_precision.py`` shows it. It walks every pair of image and class, 400 million of
them on V3Det; so classes are counted a few at a time here, on the images that concern them, and its tables of
precision joined before it averages. A class's precision depends on no other class.
"""

from __future__ import annotations

from collections import defaultdict
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from data_prep.core.errors import UserError

if TYPE_CHECKING:
    from faster_coco_eval import COCOeval_faster

MOST_DETECTIONS = {"coco": [1, 10, 100], "lvis": [300], "v3det": [300]}
"""Detections that count: per image and class in COCO and V3Det, per image over all classes in LVIS."""

_FIGURES = {
    "AP": "AP_all",
    "AP50": "AP_50",
    "AP75": "AP_75",
    "APs": "AP_small",
    "APm": "AP_medium",
    "APl": "AP_large",
}
_BY_FREQUENCY = ("APr", "APc", "APf")
_CLASS_AXIS = {"precision": 2, "recall": 1}
_TRUTH = ("image_id", "category_id", "bbox", "area", "iscrowd")
_DETECTION = ("image_id", "category_id", "bbox", "score")


def _best_per_image(detections: list[dict], most: int) -> list[dict]:
    """The best of each image, ties as they come, as the LVIS API keeps them."""
    by_image: dict[int, list[dict]] = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    return [kept for own in by_image.values() for kept in sorted(own, key=lambda d: -d["score"])[:most]]


def _by_class(records: list[dict], keys: tuple[str, ...]) -> dict[int, list[dict]]:
    """Copies of the records, which the counting writes into, with what it needs."""
    found: dict[int, list[dict]] = defaultdict(list)
    for record in records:
        found[record["category_id"]].append({key: record[key] for key in keys if record.get(key) is not None})
    return found


_BEYOND_ALL_SIZES = 1e12
"""An area outside every range of areas: such an object is ignored, and takes at most one detection with it."""


def _ignored_ancestors(truth: dict, found: dict[int, list[dict]]) -> dict[int, list[dict]]:
    """V3Det's rule: an object of an ancestor class is ignored where its descendants are scored.

    Whoever calls an annotated dog a husky may be right, so that detection does not count. As in the authors' own code
    (github.com/V3Det/mmdetection-V3Det) the object is one to be ignored in each descendant class that was detected in
    its image.

    Args:
        truth: An annotation file's content, whose categories may name their ``ancestors`` by id.
        found: Detections by class.

    Returns:
        dict: Objects to be ignored, by class.
    """
    objects = _by_class(truth["annotations"], _TRUTH)
    ignored: dict[int, list[dict]] = defaultdict(list)
    for category in truth["categories"]:
        detected = {record["image_id"] for record in found[category["id"]]}
        for ancestor in category.get("ancestors", ()) if detected else ():
            for record in objects[ancestor]:
                if record["image_id"] in detected:
                    changed = {"category_id": category["id"], "area": _BEYOND_ALL_SIZES}
                    ignored[category["id"]].append(record | changed)
    return ignored


def scorer() -> ModuleType:
    """The package that counts.

    Raises:
        UserError: It is not installed.
    """
    try:
        import faster_coco_eval
    except ImportError:
        raise UserError("scoring of detections needs faster-coco-eval: pip install 'rar-train[detection]'") from None
    return faster_coco_eval


def _evaluator(truth: dict, detections: list[dict], rules: str) -> COCOeval_faster:
    def quiet(*_) -> None:
        pass

    package = scorer()
    whole = package.COCO(truth, print_function=quiet)
    found = whole.loadRes(detections)
    evaluator = package.COCOeval_faster(whole, found, "bbox", lvis_style=rules == "lvis", print_function=quiet)
    evaluator.params.maxDets = list(MOST_DETECTIONS[rules])
    return evaluator


def _tables(truth: dict, detections: list[dict], rules: str, block: int) -> dict[str, np.ndarray]:
    """Precision and recall by class, joined over blocks of classes."""
    truths, found = _by_class(truth["annotations"], _TRUTH), _by_class(detections, _DETECTION)
    for category, objects in (_ignored_ancestors(truth, found) if rules == "v3det" else {}).items():
        truths[category] += objects
    parts = defaultdict(list)
    categories, images = _sorted_categories(truth), {image["id"]: image for image in truth["images"]}
    for start in range(0, len(categories), block):
        chosen = categories[start : start + block]
        # Numbered from 1: the counting takes the id 0 for an object that no detection matches.
        records = (record for category in chosen for record in truths[category["id"]])
        objects = [record | {"id": number} for number, record in enumerate(records, 1)]
        guessed = [record for category in chosen for record in found[category["id"]]]
        shown = [images[number] for number in sorted({record["image_id"] for record in (*objects, *guessed)})]
        evaluator = _evaluator({"images": shown, "categories": chosen, "annotations": objects}, guessed, rules)
        evaluator.evaluate()
        evaluator.accumulate()
        for key in _CLASS_AXIS:
            parts[key].append(evaluator.eval[key])
    return {key: np.concatenate(parts[key], axis) for key, axis in _CLASS_AXIS.items()}


def _sorted_categories(truth: dict) -> list[dict]:
    return sorted(truth["categories"], key=lambda record: record["id"])


def average_precision(truth: dict, detections: list[dict], rules: str, block: int = 8) -> dict[str, float | None]:
    """Scores detections.

    Args:
        truth: An annotation file's content.
        detections: Records of ``image_id``, ``category_id``, ``bbox`` and ``score``.
        rules: ``coco``; ``lvis``, where a class counts in an image only if it is annotated there or listed as absent,
            and a false detection does not where the image's annotation of its class is not exhaustive; or ``v3det``,
            COCO's with 300 detections, where objects of a class's ``ancestors`` are ignored.
        block: Classes that are counted at once.

    Returns:
        dict: ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, and by ``lvis`` also ``APr``, ``APc`` and
        ``APf``, each a share, 0 to 1; None where no annotated object is of the kind.

    Raises:
        UserError: The package is not installed.
    """
    if rules == "lvis":
        detections = _best_per_image(detections, MOST_DETECTIONS[rules][-1])
    summary = _evaluator({"images": [], "annotations": [], "categories": []}, [], rules)
    summary.eval = _tables(truth, detections, rules, block)
    frequencies = [category.get("frequency") for category in _sorted_categories(truth)]
    summary.freq_groups = [[i for i, f in enumerate(frequencies) if f == letter] for letter in "rcf"]
    summary.summarize()
    found = summary.stats_as_dict
    metrics = {name: found[key] for name, key in _FIGURES.items()}
    metrics |= {name: found[name] for name in (_BY_FREQUENCY if rules == "lvis" else ())}
    return {name: None if value < 0 else value for name, value in metrics.items()}
