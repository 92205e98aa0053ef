"""The training corpus of the nano models: random blazons of the base split, one image each.

Tens of thousands of *distinct* classes teach the parts of a blazon; a few hundred classes with many images would teach
only those classes.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.armory.blazon import DETAILS, Blazon, random_blazon_of_split
from data_prep.armory.render import render
from data_prep.core.files import fingerprint, read_json, write_folder, write_json
from data_prep.core.manifests import read_sealed_folder, seal_folder
from data_prep.core.pools import worker_pool
from data_prep.core.progress import progress_bar

log = logging.getLogger(__name__)

DRAWN_SIZE = 96  # pixels; the default size of armory's images
_CHUNK = 1000


@dataclass(frozen=True)
class BaseCorpus:
    """Images of base blazons and their labels.

    Attributes:
        images: uint8 memory map of shape ``[n, size, size, 3]``.
        details: int array of shape ``[n, 8]``: the index of each detail in its vocabulary, in the order of ``DETAILS``.
        blazons: The ``n`` blazons.
        fingerprint: Identifies the corpus.
    """

    images: np.ndarray
    details: np.ndarray
    blazons: list[Blazon]
    fingerprint: str


def detail_indices(blazon: Blazon) -> list[int]:
    """Returns the index of each detail of a blazon in its vocabulary, in the order of ``DETAILS``."""
    return [DETAILS[key].index(value) for key, value in asdict(blazon).items()]


def _render_chunk(seed: int, chunk: int, size: int) -> tuple[list[Blazon], np.ndarray]:
    blazons, images = [], np.empty((_CHUNK, size, size, 3), np.uint8)
    for row in range(_CHUNK):
        rng = np.random.default_rng([seed, chunk, row])
        blazon = random_blazon_of_split("base", rng)
        image = render(blazon, DRAWN_SIZE, rng)
        blazons.append(blazon)
        images[row] = np.asarray(image.resize((size, size), Image.BICUBIC))
    return blazons, images


def base_corpus(cache: Path, thousands: int, size: int, seed: int, processes: int = 2) -> BaseCorpus:
    """Renders the corpus, or opens it from the cache.

    Args:
        cache: Folder of caches.
        thousands: Number of images, in thousands.
        size: Width and height of the stored images in pixels.
        seed: Seed of blazons and images.
        processes: Number of rendering processes.

    Raises:
        UserError: The cached files were altered.
    """
    key = fingerprint({"thousands": thousands, "size": size, "seed": seed, "drawn": DRAWN_SIZE, "version": 1})
    folder = cache / f"base-corpus-{key}"
    if folder.exists():
        log.info("base corpus: reusing %s", folder.name)
        read_sealed_folder(folder, f"delete {folder} to have it made again")
    else:
        log.info("base corpus: rendering %d images", thousands * _CHUNK)
        with write_folder(folder) as part, worker_pool(processes) as pool:
            jobs = [pool.submit(_render_chunk, seed, chunk, size) for chunk in range(thousands)]
            images = np.lib.format.open_memmap(part / "images.npy", "w+", np.uint8, (thousands * _CHUNK, size, size, 3))
            blazons: list[Blazon] = []
            for chunk, job in enumerate(progress_bar("rendering thousands", jobs)):
                chunk_blazons, images[chunk * _CHUNK : (chunk + 1) * _CHUNK] = job.result()
                blazons += chunk_blazons
            images.flush()
            write_json(part / "blazons.json", [astuple(b) for b in blazons])
            seal_folder(part, {})
    blazons = [Blazon(*row) for row in read_json(folder / "blazons.json")]
    return BaseCorpus(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        details=np.array([detail_indices(b) for b in blazons]),
        blazons=blazons,
        fingerprint=key,
    )
