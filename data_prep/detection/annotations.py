"""Annotation files of detection sets (COCO, LVIS v1, V3Det) and result files of detectors."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.names import disambiguate, tidy

log = logging.getLogger(__name__)

CATEGORY_TREE = "v3det_2023_v1_category_tree.json"
"""V3Det's file of classes and their descendants, by which its authors score; it belongs beside the annotations."""

SOURCES = {
    "coco": "COCO is had from https://cocodataset.org/#download",
    "lvis": "LVIS v1 is had from https://www.lvisdataset.org/dataset, its images from https://cocodataset.org/#download",
    "v3det": "V3Det is had from https://github.com/V3Det/V3Det",
}
"""Where each data set is had; for errors."""

FREQUENCIES = ("r", "c", "f")
"""Rare, common and frequent classes of LVIS."""

_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class Annotations:
    """What an annotation file says.

    Attributes:
        path: The file.
        format: ``coco``, ``lvis`` or ``v3det``.
        truth: Its content, checked, for scoring; V3Det's categories with their ``ancestors`` where the tree is there.
        categories: Category id by label.
        names: Class name by label, distinct, with spaces for underscores.
        texts: The same without the numbers of classes of one name, for the encoder's prompts.
        synonyms: Other names by label, where the file has them.
    """

    path: Path
    format: str
    truth: dict
    categories: tuple[int, ...]
    names: tuple[str, ...]
    texts: tuple[str, ...]
    synonyms: dict[int, tuple[str, ...]]

    @property
    def label_of(self) -> dict[int, int]:
        """Label by category id."""
        return {category: label for label, category in enumerate(self.categories)}


def readable_name(name: str) -> str:
    """A class name as one would write it: ``bow_(weapon)`` is ``bow (weapon)``."""
    return tidy(name.replace("_", " "))


def image_name(record: dict) -> str:
    """An image's file name; LVIS gives an address instead, whose last two parts are COCO's folder and the file."""
    return record.get("file_name") or "/".join(record["coco_url"].split("/")[-2:])


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_score(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_size(value: object) -> bool:
    return _is_number(value) and value >= 1


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_class_name(value: object) -> bool:
    return isinstance(value, str) and bool(readable_name(value))


def _is_other_names(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _is_flag(value: object) -> bool:
    return value is None or value in (0, 1)


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_id, value))


_Need = tuple[Callable[[object], bool], str]

_IMAGE: dict[str, _Need] = {
    "id": (_is_id, "a whole number"),
    "width": (_is_size, "a number of pixels"),
    "height": (_is_size, "a number of pixels"),
}
_CATEGORY: dict[str, _Need] = {"id": (_is_id, "a whole number"), "name": (_is_class_name, "a name")} | {
    "synonyms": (_is_other_names, "a list of names, where it is there"),
}
_ANNOTATION: dict[str, _Need] = {
    "id": (_is_id, "a whole number"),
    "image_id": (_is_id, "a whole number"),
    "category_id": (_is_id, "a whole number"),
    "bbox": (_is_box, "left, top, width and height in pixels"),
    "area": (_is_number, "a number"),
    "iscrowd": (_is_flag, "0 or 1, where it is there"),
}
_DETECTION: dict[str, _Need] = {
    "image_id": (_is_id, "a whole number"),
    "category_id": (lambda value: value is None or _is_id(value), "a whole number, where it is there"),
    "bbox": (_is_box, "left, top, width and height in pixels"),
    "score": (_is_score, "a number from 0 to 1"),
}
_LVIS_IMAGE: dict[str, _Need] = {
    "neg_category_ids": (_is_ids, "a list of category ids"),
    "not_exhaustive_category_ids": (_is_ids, "a list of category ids"),
}
_LVIS_CATEGORY: dict[str, _Need] = {"frequency": (lambda value: value in FREQUENCIES, "r, c or f")}


def _check(where: str, records: list, needs: dict[str, _Need], source: str) -> None:
    """Checks that every record has its keys.

    Raises:
        UserError: It names the record, the key and what it must be.
    """
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"{where}[{number}]: not a record; {source}")
        for key, (holds, what) in needs.items():
            if not holds(record.get(key)):
                found = f"is {record[key]!r}" if key in record else "is missing"
                raise UserError(f"{where}[{number}]: {key} {found}, but must be {what}; {source}")


def _distinct(where: str, records: list[dict], source: str) -> None:
    first: dict[int, int] = {}
    for number, record in enumerate(records):
        if first.setdefault(record["id"], number) != number:
            raise UserError(f"{where}[{number}]: has the id {record['id']} of {where}[{first[record['id']]}]; {source}")


def _numbered(records: list) -> None:
    """V3Det's annotations may have no id; scoring needs one, from 1."""
    for number, record in enumerate(records, 1):
        if isinstance(record, dict):
            record.setdefault("id", number)


def read_annotations(path: Path, form: str) -> Annotations:
    """Reads and checks an annotation file.

    Args:
        path: JSON with lists of images, annotations and categories.
        form: ``coco``, ``lvis`` (v1) or ``v3det``.

    Raises:
        UserError: The file is missing or of another layout; it names the record and says where the data set is had.
    """
    source = SOURCES[form]
    if not path.is_file():
        raise UserError(f"{path}: no such annotation file; {source}")
    truth = read_json(path)
    for key in _LISTS:
        if not isinstance(truth, dict) or not isinstance(truth.get(key), list) or not truth[key]:
            raise UserError(
                f"{path}: has no {key}; it must be COCO-style JSON with lists of {', '.join(_LISTS)}. {source}"
            )
    if form == "v3det":
        _numbered(truth["annotations"])
    more = (_LVIS_IMAGE, _LVIS_CATEGORY) if form == "lvis" else ({}, {})
    needs = {"images": _IMAGE | more[0], "categories": _CATEGORY | more[1], "annotations": _ANNOTATION}
    for key, wanted in needs.items():
        _check(f"{path}: {key}", truth[key], wanted, source)
        _distinct(f"{path}: {key}", truth[key], source)
    for number, image in enumerate(truth["images"]):
        if not _is_name(image.get("file_name") or image.get("coco_url")):
            raise UserError(f"{path}: images[{number}]: names no file (file_name or coco_url); {source}")
    known = {key: {record["id"] for record in truth[key]} for key in ("images", "categories")}
    for number, record in enumerate(truth["annotations"]):
        for key, kind in (("image_id", "images"), ("category_id", "categories")):
            if record[key] not in known[kind]:
                raise UserError(f"{path}: annotations[{number}]: {key} {record[key]} is not among the {kind}; {source}")
    if form == "v3det":
        truth = _with_ancestors(truth, path.with_name(CATEGORY_TREE))
    categories = sorted(truth["categories"], key=lambda record: record["id"])
    names = [readable_name(record["name"]) for record in categories]
    return Annotations(
        path,
        form,
        truth,
        tuple(record["id"] for record in categories),
        disambiguate(names),
        tuple(names),
        {label: _others(record, names[label]) for label, record in enumerate(categories)},
    )


def _are_nodes(values: Iterable | None) -> bool:
    return values is not None and all(isinstance(value, str | int) for value in values)


def _with_ancestors(truth: dict, path: Path) -> dict:
    """V3Det's annotations whose categories know their ``ancestors`` by id, as the category tree says.

    Raises:
        UserError: The tree is of another layout.
    """
    if not path.is_file():
        log.warning(
            "%s: no such file, so objects of ancestor classes count as misses of a descendant's name, unlike in the "
            "authors' figures; put it there. %s",
            path,
            SOURCES["v3det"],
        )
        return truth
    tree = read_json(path)
    nodes, below = (
        tree.get(key) if isinstance(tree, dict) else None for key in ("categoryid2treeid", "ancestor2descendant")
    )
    lists = below.values() if isinstance(below, dict) else [None]
    known = [nodes.values()] if isinstance(nodes, dict) else [None]
    if not all(isinstance(own, list) for own in lists) or not all(map(_are_nodes, (*known, *lists))):
        raise UserError(
            f"{path}: must have categoryid2treeid and ancestor2descendant with lists of nodes; {SOURCES['v3det']}"
        )
    category_of = {node: int(category) for category, node in nodes.items() if category.isdecimal()}
    ancestors: dict[int, list[int]] = {}
    for node, descendants in below.items():
        for descendant in descendants if node in category_of else ():
            if descendant in category_of and descendant != node:
                ancestors.setdefault(category_of[descendant], []).append(category_of[node])
    categories = [record | {"ancestors": ancestors.get(record["id"], [])} for record in truth["categories"]]
    return truth | {"categories": categories}


def _others(category: dict, name: str) -> tuple[str, ...]:
    """A category's other names; LVIS lists its name among them, and some twice."""
    told = dict.fromkeys(readable_name(other) for other in category.get("synonyms") or () if _is_name(other))
    return tuple(other for other in told if other != name)


def read_detections(path: Path, annotations: Annotations) -> list[dict]:
    """Reads a detector's result file: a JSON list of ``image_id``, ``bbox``, ``score`` and mostly ``category_id``.

    Raises:
        UserError: The file is missing, a record lacks a key, or names an image that the annotations do not have.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such result file; give a detector's results as a COCO-style JSON list")
    source = "a result file is a COCO-style JSON list of image_id, category_id, bbox and score"
    detections = read_json(path)
    if not isinstance(detections, list):
        raise UserError(f"{path}: not a list; {source}")
    _check(f"{path}: ", detections, _DETECTION, source)
    known = {image["id"] for image in annotations.truth["images"]}
    for number, record in enumerate(detections):
        if record["image_id"] not in known:
            raise UserError(f"{path}: [{number}]: image_id {record['image_id']} is not an image of {annotations.path}")
    return detections
