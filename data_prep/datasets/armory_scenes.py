"""Armory's scenes: the embedded detection set, drawn into the cache with an annotation file in LVIS's layout."""

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

_VERSION = 2  # of the drawing and its files: raise it when pixels, boxes or the layout change
_PROCESSES = 2
_FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


def _frequencies(classes: int, rng: np.random.Generator) -> list[str]:
    """A letter for each class by lot, a third each."""
    letters = np.array(list(_FREQUENCIES))
    return letters[rng.permutation(classes) % len(letters)].tolist()


def _dealt(counts: list[int], least: int, most: int, rng: np.random.Generator) -> list[list[int]]:
    """The classes of each scene: every class as often as it counts, shuffled and cut."""
    shields = rng.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
    scenes = []
    while shields:
        size = int(rng.integers(least, most + 1))
        scenes.append(shields[:size])
        shields = shields[size:]
    return scenes


def _draw(path: Path, blazons: list[Blazon], args: SceneArgs, weather: float, seed: list[int]) -> list[tuple]:
    picture, boxes = draw_scene(blazons, args, weather, np.random.default_rng(seed))
    picture.save(path, compress_level=1)
    return boxes


def draw_scenes(data: DataArgs, args: SceneArgs, split: str, cache: Path) -> Path:
    """Draws all scenes of a split, or finds them in the cache.

    Their classes are the split's classes of armory, in the same order. A third of them are rare, common and frequent,
    by lot, and each stands in the scenes as often as the settings say. Everything in a scene is annotated, so every
    class that is not in it is listed as absent.

    Args:
        data: Seed, and armory's classes and weather.
        args: Sizes and counts.
        split: ``val`` or ``test``.
        cache: Folder of caches.

    Returns:
        Path: A folder with ``annotations.json``, in the layout of LVIS v1 without outlines, and the PNG files in
        ``images`` that it names relative to the folder.

    Raises:
        UserError: Too many classes are asked of the split, or what the cache holds is not what was drawn.
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
    scenes = _dealt(counts, *args.shields, rng)
    log.info("armory scenes: drawing %d scenes of %d %s classes", len(scenes), classes, split)
    with write_folder(folder) as part:
        (part / "images").mkdir()
        with worker_pool(_PROCESSES) as pool:
            jobs = [
                pool.submit(
                    _draw, part / _file(n), [blazons[label] for label in labels], args, armory.corruption, [*seed, n]
                )
                for n, labels in enumerate(scenes, 1)
            ]
            boxes = [job.result() for job in progress_bar("drawing scenes", jobs)]
        names = [blazon.name for blazon in blazons]
        write_json(part / "annotations.json", _annotations(scenes, boxes, names, frequencies, args.size))
        seal(part, hash_files(part))
    return folder


def _file(number: int) -> str:
    return f"images/{number:06d}.png"


def _annotations(
    scenes: list[list[int]], boxes: list[list[tuple]], names: list[str], frequencies: list[str], size: int
) -> dict:
    """The annotation file; a class's id is its label and one, since some scorers take 0 for nothing."""
    images, annotations = [], []
    for number, (labels, own) in enumerate(zip(scenes, boxes, strict=True), 1):
        absent = [label + 1 for label in range(len(names)) if label not in labels]
        image = {"id": number, "file_name": _file(number), "width": size, "height": size}
        images.append(image | {"neg_category_ids": absent, "not_exhaustive_category_ids": []})
        for label, (left, top, right, bottom) in zip(labels, own, strict=True):
            box = [left, top, right - left, bottom - top]
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": box}
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
