"""Readers and checks for annotation files (COCO, LVIS v1, V3Det) and for detector result files."""

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
"""V3Det's file of classes and their descendants, which its authors score with; put it next to the annotations."""

SOURCES = {
    "coco": "Download COCO from https://cocodataset.org/#download",
    "lvis": "Download LVIS v1 from https://www.lvisdataset.org/dataset, its images from https://cocodataset.org/#download",
    "v3det": "Download V3Det from https://github.com/V3Det/V3Det",
}
"""Where to download each data set, by format; for error messages."""

FREQUENCIES = ("r", "c", "f")
"""LVIS's frequency groups: rare, common and frequent classes."""

_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class Annotations:
    """The checked content of an annotation file.

    Attributes:
        path: The file.
        format: ``coco``, ``lvis`` or ``v3det``.
        truth: The checked JSON, for scoring; V3Det's categories have ``ancestors`` if the category tree is available.
        categories: Category id by label.
        names: Class name by label, distinct, with spaces for underscores.
        texts: The same without the numbers that tell classes of equal name apart, for the encoder's prompts.
        synonyms: Other names by label; empty where the file gives none.
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
        """Maps category id to label."""
        return {category: label for label, category in enumerate(self.categories)}


def readable_name(name: str) -> str:
    """Returns a class name in readable form: ``bow_(weapon)`` becomes ``bow (weapon)``."""
    return tidy(name.replace("_", " "))


def image_file_name(record: dict) -> str:
    """Returns an image's file name; LVIS gives a URL instead, whose last two parts are COCO's folder and file name."""
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


def _is_list_of_names(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _is_flag(value: object) -> bool:
    return value is None or value in (0, 1)


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_id, value))


_Requirement = tuple[Callable[[object], bool], str]
"""A check of a value, and what the value must be, for error messages."""

_IMAGE: dict[str, _Requirement] = {
    "id": (_is_id, "a whole number"),
    "width": (_is_size, "a number of pixels"),
    "height": (_is_size, "a number of pixels"),
}
_CATEGORY: dict[str, _Requirement] = {"id": (_is_id, "a whole number"), "name": (_is_class_name, "a name")} | {
    "synonyms": (_is_list_of_names, "a list of names, if it is given"),
}
_ANNOTATION: dict[str, _Requirement] = {
    "id": (_is_id, "a whole number"),
    "image_id": (_is_id, "a whole number"),
    "category_id": (_is_id, "a whole number"),
    "bbox": (_is_box, "left, top, width and height in pixels"),
    "area": (_is_number, "a number"),
    "iscrowd": (_is_flag, "0 or 1, if it is given"),
}
_DETECTION: dict[str, _Requirement] = {
    "image_id": (_is_id, "a whole number"),
    "category_id": (lambda value: value is None or _is_id(value), "a whole number, if it is given"),
    "bbox": (_is_box, "left, top, width and height in pixels"),
    "score": (_is_score, "a number from 0 to 1"),
}
_LVIS_IMAGE: dict[str, _Requirement] = {
    "neg_category_ids": (_is_ids, "a list of category ids"),
    "not_exhaustive_category_ids": (_is_ids, "a list of category ids"),
}
_LVIS_CATEGORY: dict[str, _Requirement] = {"frequency": (lambda value: value in FREQUENCIES, "r, c or f")}


def _check_records(where: str, records: list, requirements: dict[str, _Requirement], source: str) -> None:
    """Checks that the keys of every record have valid values.

    Raises:
        UserError: One does not; the message names the record, the key and what its value must be.
    """
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"{where}[{index}]: not a record; {source}")
        for key, (is_valid, expected) in requirements.items():
            if not is_valid(record.get(key)):
                problem = f"is {record[key]!r}" if key in record else "is missing"
                raise UserError(f"{where}[{index}]: {key} {problem}, but must be {expected}; {source}")


def _check_ids_are_unique(where: str, records: list[dict], source: str) -> None:
    index_by_id: dict[int, int] = {}
    for index, record in enumerate(records):
        first = index_by_id.setdefault(record["id"], index)
        if first != index:
            raise UserError(f"{where}[{index}]: has the id {record['id']} of {where}[{first}]; {source}")


def _add_missing_ids(records: list) -> None:
    """Adds ids, counted from 1: V3Det's annotations may have none, but scoring needs them."""
    for number, record in enumerate(records, 1):
        if isinstance(record, dict):
            record.setdefault("id", number)


def read_annotations(path: Path, form: str) -> Annotations:
    """Reads and checks an annotation file.

    Args:
        path: JSON with lists of images, annotations and categories.
        form: ``coco``, ``lvis`` (v1) or ``v3det``.

    Raises:
        UserError: The file is missing or of another layout; the message names the record and says where to download
            the data set.
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
        _add_missing_ids(truth["annotations"])
    lvis_image, lvis_category = (_LVIS_IMAGE, _LVIS_CATEGORY) if form == "lvis" else ({}, {})
    requirements = {"images": _IMAGE | lvis_image, "categories": _CATEGORY | lvis_category, "annotations": _ANNOTATION}
    for key, required in requirements.items():
        _check_records(f"{path}: {key}", truth[key], required, source)
        _check_ids_are_unique(f"{path}: {key}", truth[key], source)
    for index, image in enumerate(truth["images"]):
        if not _is_name(image.get("file_name") or image.get("coco_url")):
            raise UserError(f"{path}: images[{index}]: names no file (file_name or coco_url); {source}")
    ids = {key: {record["id"] for record in truth[key]} for key in ("images", "categories")}
    for index, record in enumerate(truth["annotations"]):
        for key, kind in (("image_id", "images"), ("category_id", "categories")):
            if record[key] not in ids[kind]:
                raise UserError(f"{path}: annotations[{index}]: {key} {record[key]} is not among the {kind}; {source}")
    if form == "v3det":
        truth = _add_ancestors(truth, path.with_name(CATEGORY_TREE))
    categories = sorted(truth["categories"], key=lambda record: record["id"])
    names = [readable_name(record["name"]) for record in categories]
    return Annotations(
        path,
        form,
        truth,
        tuple(record["id"] for record in categories),
        disambiguate(names),
        tuple(names),
        {label: _synonyms(record, names[label]) for label, record in enumerate(categories)},
    )


def _are_nodes(values: Iterable | None) -> bool:
    return values is not None and all(isinstance(value, str | int) for value in values)


def _add_ancestors(truth: dict, path: Path) -> dict:
    """Returns V3Det's annotations with the ids of each category's ``ancestors``, read from the category tree.

    Raises:
        UserError: The tree is of another layout.
    """
    if not path.is_file():
        log.warning(
            "%s: no such file, so objects of ancestor classes count as misses of a descendant's name, unlike in the "
            "authors' results; put it there. %s",
            path,
            SOURCES["v3det"],
        )
        return truth
    tree = read_json(path)
    node_by_category, descendants_by_node = (
        tree.get(key) if isinstance(tree, dict) else None for key in ("categoryid2treeid", "ancestor2descendant")
    )
    nodes = [node_by_category.values()] if isinstance(node_by_category, dict) else [None]
    lists = descendants_by_node.values() if isinstance(descendants_by_node, dict) else [None]
    if not all(isinstance(nodes_below, list) for nodes_below in lists) or not all(map(_are_nodes, (*nodes, *lists))):
        raise UserError(
            f"{path}: must have categoryid2treeid and ancestor2descendant with lists of nodes; {SOURCES['v3det']}"
        )
    category_by_node = {node: int(category) for category, node in node_by_category.items() if category.isdecimal()}
    ancestors: dict[int, list[int]] = {}
    for node, descendants in descendants_by_node.items():
        for descendant in descendants if node in category_by_node else ():
            if descendant in category_by_node and descendant != node:
                ancestors.setdefault(category_by_node[descendant], []).append(category_by_node[node])
    categories = [record | {"ancestors": ancestors.get(record["id"], [])} for record in truth["categories"]]
    return truth | {"categories": categories}


def _synonyms(category: dict, name: str) -> tuple[str, ...]:
    """Returns a category's distinct other names; LVIS lists the name itself among them, and some names twice."""
    listed = (readable_name(synonym) for synonym in category.get("synonyms") or () if _is_name(synonym))
    return tuple(synonym for synonym in dict.fromkeys(listed) if synonym != name)


def read_detections(path: Path, annotations: Annotations) -> list[dict]:
    """Reads a detector's result file: a JSON list of ``image_id``, ``bbox``, ``score`` and optionally ``category_id``.

    Raises:
        UserError: The file is missing, or a record has an invalid key or an image that the annotations do not have.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such result file; give a detector's results as a COCO-style JSON list")
    source = "a result file is a COCO-style JSON list of image_id, category_id, bbox and score"
    detections = read_json(path)
    if not isinstance(detections, list):
        raise UserError(f"{path}: not a list; {source}")
    _check_records(f"{path}: ", detections, _DETECTION, source)
    image_ids = {image["id"] for image in annotations.truth["images"]}
    for index, record in enumerate(detections):
        if record["image_id"] not in image_ids:
            raise UserError(f"{path}: [{index}]: image_id {record['image_id']} is not an image of {annotations.path}")
    return detections
