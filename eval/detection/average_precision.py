"""Average precision by the data sets' own rules, computed by faster-coco-eval.

It is a maintained successor of ``pycocotools`` and ``lvis`` (the latter no longer runs with numpy 2) and gives the same
metrics, as ``tests/eval/detection/test_average_precision.py`` shows. It visits every pair of image and class, 400
million of them on V3Det; so classes are evaluated here in blocks, each on the images that it concerns, and the
precision tables are joined before averaging. A class's precision does not depend on other classes.
"""

from __future__ import annotations

from collections import defaultdict
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from data_prep.core.errors import UserError

if TYPE_CHECKING:
    from faster_coco_eval import COCOeval_faster

MAX_DETECTIONS = {"coco": [1, 10, 100], "lvis": [300], "v3det": [300]}
"""Maximum number of detections: per image and class in COCO and V3Det, per image over all classes in LVIS."""

_METRICS = {
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


def _best_per_image(detections: list[dict], max_detections: int) -> list[dict]:
    """Keeps the best detections of each image, ties in file order, as the LVIS API does."""
    by_image: dict[int, list[dict]] = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    return [
        best for records in by_image.values() for best in sorted(records, key=lambda d: -d["score"])[:max_detections]
    ]


def _by_class(records: list[dict], keys: tuple[str, ...]) -> dict[int, list[dict]]:
    """Groups copies of the records, with the keys that the scorer needs: it writes into its input."""
    by_class: dict[int, list[dict]] = defaultdict(list)
    for record in records:
        by_class[record["category_id"]].append({key: record[key] for key in keys if record.get(key) is not None})
    return by_class


_BEYOND_ALL_SIZES = 1e12
"""An area outside every size range: such an object is ignored, together with at most one detection."""


def _ignored_ancestors(truth: dict, detections: dict[int, list[dict]]) -> dict[int, list[dict]]:
    """Applies V3Det's rule: an object of an ancestor class is ignored where its descendants are scored.

    A detection of an annotated dog as husky may be right, so it does not count. As in the authors' code
    (github.com/V3Det/mmdetection-V3Det) the object is ignored in each descendant class that was detected in its image.

    Args:
        truth: An annotation file's content, whose categories may list their ``ancestors`` by id.
        detections: By class.

    Returns:
        dict: Objects to ignore, by class.
    """
    objects = _by_class(truth["annotations"], _TRUTH)
    ignored: dict[int, list[dict]] = defaultdict(list)
    for category in truth["categories"]:
        detected = {record["image_id"] for record in detections[category["id"]]}
        for ancestor in category.get("ancestors", ()) if detected else ():
            for record in objects[ancestor]:
                if record["image_id"] in detected:
                    ignore = {"category_id": category["id"], "area": _BEYOND_ALL_SIZES}
                    ignored[category["id"]].append(record | ignore)
    return ignored


def scorer() -> ModuleType:
    """Imports the package that computes average precision.

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
    ground_truth = package.COCO(truth, print_function=quiet)
    results = ground_truth.loadRes(detections)
    evaluator = package.COCOeval_faster(ground_truth, results, "bbox", lvis_style=rules == "lvis", print_function=quiet)
    evaluator.params.maxDets = list(MAX_DETECTIONS[rules])
    return evaluator


def _tables(truth: dict, detections: list[dict], rules: str, block: int) -> dict[str, np.ndarray]:
    """Computes precision and recall by class, joined over blocks of classes."""
    truths, detected = _by_class(truth["annotations"], _TRUTH), _by_class(detections, _DETECTION)
    for category, objects in (_ignored_ancestors(truth, detected) if rules == "v3det" else {}).items():
        truths[category] += objects
    parts = defaultdict(list)
    categories, images = _sorted_categories(truth), {image["id"]: image for image in truth["images"]}
    for start in range(0, len(categories), block):
        in_block = categories[start : start + block]
        # Ids start at 1: the scorer uses id 0 for an object that no detection matches.
        records = (record for category in in_block for record in truths[category["id"]])
        objects = [record | {"id": index} for index, record in enumerate(records, 1)]
        in_classes = [record for category in in_block for record in detected[category["id"]]]
        image_ids = sorted({record["image_id"] for record in (*objects, *in_classes)})
        in_images = [images[image_id] for image_id in image_ids]
        block_truth = {"images": in_images, "categories": in_block, "annotations": objects}
        evaluator = _evaluator(block_truth, in_classes, rules)
        evaluator.evaluate()
        evaluator.accumulate()
        for key in _CLASS_AXIS:
            parts[key].append(evaluator.eval[key])
    return {key: np.concatenate(parts[key], axis) for key, axis in _CLASS_AXIS.items()}


def _sorted_categories(truth: dict) -> list[dict]:
    return sorted(truth["categories"], key=lambda record: record["id"])


def average_precision(truth: dict, detections: list[dict], rules: str, block: int = 8) -> dict[str, float | None]:
    """Computes average precision.

    Args:
        truth: An annotation file's content.
        detections: Records of ``image_id``, ``category_id``, ``bbox`` and ``score``.
        rules: ``coco``; ``lvis``, where a class counts in an image only if it is annotated there or listed as absent,
            and a false detection does not where the image's annotation of its class is not exhaustive; or ``v3det``,
            COCO's with 300 detections, where objects of a class's ``ancestors`` are ignored.
        block: Number of classes that are evaluated at once.

    Returns:
        dict: ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, and with ``lvis`` also ``APr``, ``APc`` and
        ``APf``, each a share, 0 to 1; None where no annotated object is of the kind.

    Raises:
        UserError: The package is not installed.
    """
    if rules == "lvis":
        detections = _best_per_image(detections, MAX_DETECTIONS[rules][-1])
    summary = _evaluator({"images": [], "annotations": [], "categories": []}, [], rules)
    summary.eval = _tables(truth, detections, rules, block)
    frequencies = [category.get("frequency") for category in _sorted_categories(truth)]
    summary.freq_groups = [[i for i, f in enumerate(frequencies) if f == letter] for letter in "rcf"]
    summary.summarize()
    stats = summary.stats_as_dict
    metrics = {name: stats[key] for name, key in _METRICS.items()}
    metrics |= {name: stats[name] for name in (_BY_FREQUENCY if rules == "lvis" else ())}
    return {name: None if value < 0 else value for name, value in metrics.items()}
