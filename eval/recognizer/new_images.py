"""Images and vectors that are added to a class memory: checked, embedded and identified by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data_prep.core.records import Sample
from data_prep.distributed.devices import resolve_accelerator
from data_prep.embedding.base import Encoder, encode_images, stack
from data_prep.embedding.image_inputs import ImageInput, OpenedImage, open_input
from data_prep.embedding.pair import PairedQueries, Queries
from data_prep.memory.memory import Entry
from data_prep.reading.dataset import hash_images, sample_key
from data_prep.settings import Recipe, check
from eval.ranking.request import open_request_image


def query_uncached(encoder: Encoder, images: Sequence[str | Path | Image.Image], recipe: Recipe) -> Queries:
    """Embeds images to be compared with images and with names; see ``embed_uncached``."""
    by_image, by_name = encoder.image_encoder, encoder.name_encoder
    if by_image is by_name:
        return embed_uncached(encoder, images, recipe)
    return PairedQueries(*(embed_uncached(side, images, recipe) for side in (by_image, by_name)))


@torch.inference_mode()
def embed_uncached(encoder: Encoder, images: Sequence[str | Path | Image.Image], recipe: Recipe) -> np.ndarray:
    """Embeds images to be compared with images, in this process, without a cache.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``.

    Raises:
        UserError: An image is missing or does not decode.
    """
    device, encoder = torch.device(resolve_accelerator(recipe.trainer)), encoder.image_encoder
    encoder.to(device)
    embeddings = []
    for start in range(0, len(images), recipe.retriever.batch_size):
        batch = images[start : start + recipe.retriever.batch_size]
        prepared = stack([encoder.preprocess(open_request_image(image)) for image in batch])
        prepared = prepared.to(device) if isinstance(prepared, torch.Tensor) else prepared
        embeddings.append(encode_images(encoder, prepared, len(batch)))
    return np.concatenate(embeddings)


def make_samples(files: Sequence[tuple[int, Path]], recipe: Recipe) -> list[Sample]:
    """Makes samples of labels and image files; files that are skipped are left out."""
    if not files:
        return []
    file_digests = hash_images([file for _, file in files], Path(recipe.cache), recipe.data.on_error)
    return [
        Sample(sample_key(str(file)), str(file), label, digest)
        for (label, file), digest in zip(files, file_digests, strict=True)
        if digest
    ]


def embed_new_images(
    encoder: Encoder,
    recipe: Recipe,
    label: int,
    images: Sequence[ImageInput | OpenedImage],
    known_digests: set[str],
) -> tuple[list[Entry], np.ndarray, dict[str, str]]:
    """Embeds the images that are new to a class.

    Args:
        encoder: Embeds them.
        recipe: The retriever's settings, and the cache.
        label: The class.
        images: Files, or images in memory.
        known_digests: Digests of the images that the class has.

    Returns:
        tuple: Their entries, their vectors of shape ``[n, d]`` (``[0, 0]`` for none), and the files by digest.
    """
    entries: dict[str, Entry] = {}
    sources: dict[str, str | Image.Image] = {}
    files = [(label, Path(image)) for image in images if isinstance(image, str | Path)]
    for sample in make_samples(files, recipe):
        entries[sample.digest] = Entry(label, "image", sample.key, sample.digest)
        sources[sample.digest] = sample.path
    for index, image in enumerate(images):
        if not isinstance(image, str | Path):
            opened = open_input(image, f"image {index}")
            entries[opened.key] = Entry(label, "image", f"image-{opened.key[:16]}", opened.key)
            sources[opened.key] = opened.image
    new = [digest for digest in entries if digest not in known_digests]
    if not new:
        return [], np.empty((0, 0), np.float32), {}
    vectors = embed_uncached(encoder, [sources[digest] for digest in new], recipe)
    paths = {digest: source for digest in new if isinstance(source := sources[digest], str)}
    return [entries[digest] for digest in new], vectors, paths


def normalize_vectors(
    label: int, vectors: np.ndarray, dimension: int, known_digests: set[str]
) -> tuple[list[Entry], np.ndarray]:
    """Normalises a caller's vectors; those that the class has already are left out.

    Raises:
        UserError: They are of another dimension, not finite, or zero.
    """
    rows = np.atleast_2d(np.asarray(vectors, np.float32))
    fits = rows.ndim == 2 and rows.shape[1] == dimension
    check(fits, f"vectors of shape {list(np.shape(vectors))}: the encoder's are [n, {dimension}]")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    check(bool(np.isfinite(norms).all() and (norms > 0).all()), "vectors: some are zero or not finite")
    rows = rows / norms
    by_digest = {hashlib.sha256(row.tobytes()).hexdigest(): row for row in rows}
    new = [digest for digest in by_digest if digest not in known_digests]
    entries = [Entry(label, "image", f"vector-{digest[:16]}", digest) for digest in new]
    return entries, np.stack([by_digest[digest] for digest in new]) if new else rows[:0]
