"""Small annotation files in the layouts of COCO, LVIS v1 and V3Det, with their images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def draw(path: Path, width: int, height: int, seed: int) -> None:
    """Writes an image of random blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(blocks).resize((width, height), Image.NEAREST).save(path)


def write_coco(folder: Path) -> Path:
    """Writes COCO's layout: bare file names in ``val2017``, ids with gaps, a crowd, a box without area, polygons."""
    for number, (width, height) in enumerate(((80, 60), (50, 50)), 1):
        draw(folder / "val2017" / f"{number:012d}.jpg", width, height, number)
    polygon = {"segmentation": [[10, 10, 30, 10, 30, 40]], "area": 300.0}
    value = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"id": 139, "file_name": "000000000001.jpg", "width": 80, "height": 60, "license": 2},
            {"id": 285, "file_name": "000000000002.jpg", "width": 50, "height": 50, "license": 2},
        ],
        "annotations": [
            {"id": 11, "image_id": 285, "category_id": 90, "bbox": [40, 40, 12.5, 12.5], "iscrowd": 0} | polygon,
            {"id": 12, "image_id": 139, "category_id": 1, "bbox": [10.5, 10, 20, 30], "iscrowd": 0} | polygon,
            {"id": 13, "image_id": 139, "category_id": 90, "bbox": [0, 0, 60, 60], "iscrowd": 1} | polygon,
            {"id": 14, "image_id": 139, "category_id": 1, "bbox": [5, 5, 0, 10], "iscrowd": 0} | polygon,
        ],
        "categories": [
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
            {"id": 1, "name": "person", "supercategory": "person"},
        ],
    }
    return _write_json(folder / "instances_val2017.json", value)


def write_lvis(folder: Path) -> Path:
    """Writes LVIS v1's layout: URLs for file names, two of COCO's folders, frequencies, lists of absent classes."""
    urls = ("train2017/000000000003.jpg", "val2017/000000000004.jpg")
    for number, url in enumerate(urls):
        draw(folder / url, 64, 64, 10 + number)
    images = [
        {"id": 3, "coco_url": f"http://images.cocodataset.org/{urls[0]}", "width": 64, "height": 64},
        {"id": 4, "coco_url": f"http://images.cocodataset.org/{urls[1]}", "width": 64, "height": 64},
    ]
    lists = ([2], [1]), ([1, 2], [])
    names = ("bow_(weapon)", "alarm_clock", "bow_(weapon)")
    synonyms = (["bow_(weapon)"], ["alarm_clock", "alarm  clock", "wake-up_clock"], ["longbow"])
    value = {
        "images": [
            image | {"neg_category_ids": absent, "not_exhaustive_category_ids": incomplete}
            for image, (absent, incomplete) in zip(images, lists, strict=True)
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 1, "bbox": [2, 2, 30, 30], "area": 700.0, "segmentation": []},
            {"id": 2, "image_id": 4, "category_id": 3, "bbox": [8, 8, 50, 40], "area": 1500.0, "segmentation": []},
        ],
        "categories": [
            {"id": n, "name": name, "synonyms": others, "frequency": letter, "synset": f"{name}.n.01", "image_count": 3}
            for n, name, others, letter in zip((1, 2, 3), names, synonyms, "rcf", strict=True)
        ],
    }
    return _write_json(folder / "lvis_v1_val.json", value)


def write_v3det(folder: Path) -> Path:
    """Writes V3Det's layout: a folder of images per category node, class descriptions, annotations without ids."""
    draw(folder / "images/n07745046/21_371.jpg", 64, 48, 20)
    value = {
        "images": [{"id": 0, "file_name": "images/n07745046/21_371.jpg", "width": 64, "height": 48}],
        "annotations": [{"image_id": 0, "category_id": 7, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}],
        "categories": [
            {
                "id": 7,
                "name": "star_fruit",
                "name_zh": "杨桃",
                "cat_info": ["fruit"],
                "cat_info_gpt": [],
                "novel": True,
            },
            {"id": 8, "name": "ballista", "name_zh": "弩炮", "cat_info": [], "novel": False},
        ],
    }
    return _write_json(folder / "v3det_2023_v1_val.json", value)


def _write_json(path: Path, value: dict) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path
