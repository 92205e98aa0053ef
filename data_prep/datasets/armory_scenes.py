"""Armory's scenes: the built-in detection set, rendered into the cache with an annotation file in LVIS's layout."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data_prep.armory.blazon import SPLITS, Blazon, draw_classes
from data_prep.armory.scenes import draw_scene
from data_prep.core.files import fingerprint, write_folder, write_json
from data_prep.core.manifests import hash_files
from data_prep.core.pools import worker_pool
from data_prep.core.progress import progress_bar
from data_prep.reading.kept import confirm, seal
from data_prep.settings import DataArgs, SceneArgs

log = logging.getLogger(__name__)

_VERSION = 2  # of the rendering and its files: increase it when pixels, boxes or the layout change
_PROCESSES = 2
_FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


def _frequencies(classes: int, rng: np.random.Generator) -> list[str]:
    """Assigns a frequency letter to each class at random, each letter to a third of the classes."""
    letters = np.array(list(_FREQUENCIES))
    return letters[rng.permutation(classes) % len(letters)].tolist()


def _assign_to_scenes(counts: list[int], minimum: int, maximum: int, rng: np.random.Generator) -> list[list[int]]:
    """Returns the labels in each scene: every label as often as its count, shuffled and cut into scenes."""
    shields = rng.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
    scenes = []
    while shields:
        size = int(rng.integers(minimum, maximum + 1))
        scenes.append(shields[:size])
        shields = shields[size:]
    return scenes


def _render(path: Path, blazons: list[Blazon], args: SceneArgs, corruption: float, seed: list[int]) -> list[tuple]:
    image, boxes = draw_scene(blazons, args, corruption, np.random.default_rng(seed))
    image.save(path, compress_level=1)
    return boxes


def render_scenes(data: DataArgs, args: SceneArgs, split: str, cache: Path) -> Path:
    """Renders all scenes of a split, or finds them in the cache.

    The classes are armory's classes of the split, in the same order. A random third each are rare, common and frequent,
    and a class occurs in the scenes as often as the settings give for its frequency. Everything in a scene is
    annotated, so every class that is not in it is listed as absent.

    Args:
        data: Seed, and armory's classes and corruption.
        args: Sizes and counts.
        split: ``val`` or ``test``.
        cache: Folder of caches.

    Returns:
        Path: A folder with ``annotations.json``, in the layout of LVIS v1 without segmentations, and the PNG files in
        ``images``; their paths in it are relative to the folder.

    Raises:
        UserError: The split has fewer classes than requested, or the cached files were altered.
    """
    armory = data.armory
    classes = asdict(armory)[f"{split}_classes"]
    settings = [_VERSION, data.seed, split, classes, armory.family_size, armory.corruption, asdict(args)]
    folder = cache / f"armory-scenes-{split}-{fingerprint(settings)}"
    if folder.exists():
        log.info("armory scenes: reusing %s", folder.name)
        confirm(folder, cache)
        return folder
    blazons = draw_classes(split, classes, armory.family_size, data.seed)
    seed = [data.seed, SPLITS.index(split)]
    rng = np.random.default_rng(seed)
    frequencies = _frequencies(classes, rng)
    counts = [asdict(args)[_FREQUENCIES[letter]] for letter in frequencies]
    scenes = _assign_to_scenes(counts, *args.shields, rng)
    log.info("armory scenes: rendering %d scenes of %d %s classes", len(scenes), classes, split)
    with write_folder(folder) as part:
        (part / "images").mkdir()
        with worker_pool(_PROCESSES) as pool:
            jobs = [
                pool.submit(
                    _render,
                    part / _file_name(n),
                    [blazons[label] for label in labels],
                    args,
                    armory.corruption,
                    [*seed, n],
                )
                for n, labels in enumerate(scenes, 1)
            ]
            boxes = [job.result() for job in progress_bar("rendering scenes", jobs)]
        names = [blazon.name for blazon in blazons]
        write_json(part / "annotations.json", _annotations(scenes, boxes, names, frequencies, args.size))
        seal(part, hash_files(part))
    return folder


def _file_name(image_id: int) -> str:
    return f"images/{image_id:06d}.png"


def _annotations(
    scenes: list[list[int]], boxes: list[list[tuple]], names: list[str], frequencies: list[str], size: int
) -> dict:
    """Returns the annotation file's content; a category id is the label plus one, as some scorers treat 0 as none."""
    images, annotations = [], []
    for image_id, (labels, scene_boxes) in enumerate(zip(scenes, boxes, strict=True), 1):
        absent = [label + 1 for label in range(len(names)) if label not in labels]
        image = {"id": image_id, "file_name": _file_name(image_id), "width": size, "height": size}
        images.append(image | {"neg_category_ids": absent, "not_exhaustive_category_ids": []})
        for label, (left, top, right, bottom) in zip(labels, scene_boxes, strict=True):
            box = [left, top, right - left, bottom - top]
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "bbox": box}
            annotations.append(annotation | {"area": box[2] * box[3]})
    categories = [
        {
            "id": label + 1,
            "name": name,
            "synonyms": [name],
            "frequency": frequency,
            "image_count": sum(label in labels for labels in scenes),
            "instance_count": sum(labels.count(label) for labels in scenes),
        }
        for label, (name, frequency) in enumerate(zip(names, frequencies, strict=True))
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
