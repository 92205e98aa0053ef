"""The procedural data set: renders a split's images into the cache and lists them."""

from __future__ import annotations

import csv
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data_prep.armory.blazon import SPLITS, Blazon, draw_classes
from data_prep.armory.descriptions import describe_blazon
from data_prep.armory.render import render
from data_prep.core.files import fingerprint, write_folder
from data_prep.core.manifests import hash_files
from data_prep.core.pools import worker_pool
from data_prep.core.progress import progress_bar
from data_prep.core.records import Sample
from data_prep.reading.dataset import Dataset, hash_images, sample_key
from data_prep.reading.kept import confirm, seal
from data_prep.settings import ArmoryArgs, DataArgs

log = logging.getLogger(__name__)

_VERSION = 2  # of the rendering and its files: increase it when pixels, names or the layout change
_PROCESSES = 2
_KEYS = {"train": "tuning", "val": "development", "test": "test"}
"""Prefixes of the keys of a split's images. Keys seed random choices, so other prefixes would change results."""


def _render_class(folder: Path, label: int, blazon: Blazon, images: int, args: ArmoryArgs, seed: list[int]) -> None:
    target = folder / f"{label:06d}"
    target.mkdir()
    for index in range(images):
        image = render(blazon, args.size, np.random.default_rng([*seed, label, index]), args.corruption)
        image.save(target / f"{index:04d}.png", compress_level=1)


def draw_split(args: ArmoryArgs, seed: int, split: str, cache: Path) -> Path:
    """Renders all images of a split, or finds them in the cache.

    Args:
        args: Numbers of classes and images, and their size.
        seed: Seed of classes and images.
        split: ``train``, ``val`` or ``test``.
        cache: Folder of caches.

    Returns:
        Path: A folder with ``classes.csv`` (number, name) and one folder of PNG files per class.

    Raises:
        UserError: The cached files were altered, or the split has fewer classes than requested.
    """
    classes = asdict(args)[f"{split}_classes"]
    images = args.train_images if split == "train" else args.memory_images + args.query_images
    settings = [_VERSION, seed, split, classes, args.family_size, images, args.size, args.corruption]
    folder = cache / f"armory-{split}-{fingerprint(settings)}"
    if folder.exists():
        log.info("armory: reusing %s", folder.name)
        confirm(folder, cache)
        return folder
    log.info("armory: rendering %d images of %d %s classes", classes * images, classes, split)
    blazons = draw_classes(split, classes, args.family_size, seed)
    with write_folder(folder) as part:
        with worker_pool(_PROCESSES) as pool:
            split_seed = [seed, SPLITS.index(split)]
            jobs = [
                pool.submit(_render_class, part, label, blazon, images, args, split_seed)
                for label, blazon in enumerate(blazons)
            ]
            for job in progress_bar("rendering classes", jobs):
                job.result()
        with open(part / "classes.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("number", "name"), *((n, b.name) for n, b in enumerate(blazons))])
        seal(part, hash_files(part))
    return folder


def read_armory(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads armory's parts; classes of different splits are disjoint.

    Raises:
        UserError: A split has fewer classes than requested, or cached files were altered.
    """
    names: list[str] = []
    descriptions: list[str] = []
    samples_by_part: dict[str, list[Sample]] = {}
    for split in ("train", "val", "test"):
        if not any(part.split("_")[0] == split for part in parts):
            continue
        folder = draw_split(args.armory, args.seed, split, cache)
        with open(folder / "classes.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        offset = len(names)
        names += [row["name"] for row in rows]
        if args.descriptions == "own":
            descriptions += map(describe_blazon, draw_classes(split, len(rows), args.armory.family_size, args.seed))
        files = sorted(folder.glob("*/*.png"))
        samples = [
            Sample(
                key=sample_key(f"{_KEYS[split]}/{path.parent.name}/{path.stem}"),
                path=str(path),
                label=offset + int(path.parent.name),
                digest=digest or "",
            )
            for path, digest in zip(files, hash_images(files, cache, "raise"), strict=True)
        ]
        if split == "train":
            samples_by_part["train"] = samples
        else:
            memory_images = args.armory.memory_images
            samples_by_part[f"{split}_memory"] = [s for s in samples if int(Path(s.path).stem) < memory_images]
            samples_by_part[split] = [s for s in samples if int(Path(s.path).stem) >= memory_images]
    described = {label: (text,) for label, text in enumerate(descriptions)}
    return Dataset("armory", tuple(names), {part: samples_by_part[part] for part in parts}, descriptions=described)
