"""Loads an encoder of any kind, and embeds images, regions and names with a cache."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from data_prep.core.errors import UserError
from data_prep.core.images import open_image
from data_prep.core.paths import split_prefix
from data_prep.core.records import Sample
from data_prep.embedding.base import Encoder as Encoder
from data_prep.embedding.base import check_vectors
from data_prep.embedding.open_clip_encoder import load_open_clip_encoder
from data_prep.embedding.open_clip_models import NANO_CLIP as NANO_CLIP
from data_prep.embedding.own_encoder import find_own_encoder, wrap_encoder
from data_prep.embedding.pair import EncoderPair, PairedQueries, Queries, split_settings, to_name_settings
from data_prep.embedding.regions import Region, open_region, region_key
from data_prep.embedding.store import EmbeddingStore
from data_prep.settings import RegionArgs, RetrieverArgs, TrainerArgs, check

log = logging.getLogger(__name__)


def load_encoder(args: RetrieverArgs, processes: TrainerArgs | None = None) -> Encoder:
    """Loads an encoder with pretrained weights, never with random ones.

    Args:
        args: Which model: a name of open_clip; of timm, transformers or sentence-transformers after ``timm:``, ``hf:``
            or ``st:``; or ``module:function`` or the name of an entry point in the group ``rar_train.encoders``, a
            function that takes these settings and returns an ``Encoder``. With ``name_model`` a pair is loaded.
        processes: Devices and machines to embed on; by default one device of this machine.

    Raises:
        UserError: No weights are named, or the model or its weights cannot be loaded; the message
            says how to point to a local copy.

    Example:
        >>> from data_prep import load_encoder
        >>> from data_prep.settings import RetrieverArgs
        >>> encoder = load_encoder(RetrieverArgs(model="nano-clip"))
        >>> encoder.model.encode_text(encoder.tokenize(["azure, a bend or"])).shape[0]
        1
    """
    processes = processes or TrainerArgs()
    if args.name_model is None:
        return _load_one(args, processes)
    of_images, of_names = split_settings(args)
    with to_name_settings():
        names = _load_one(of_names, processes)
    return EncoderPair(_load_one(of_images, processes), names, args)


def _load_one(args: RetrieverArgs, processes: TrainerArgs) -> Encoder:
    """Loads the encoder of ``retriever.model``, by its library; libraries are imported where they are used."""
    prefix, _ = split_prefix(args.model)
    if prefix == "timm:":
        from data_prep.embedding.timm_encoder import load_timm_encoder

        return load_timm_encoder(args, processes)
    if prefix == "hf:":
        from data_prep.embedding.transformers_encoder import load_transformers_encoder

        return load_transformers_encoder(args, processes)
    if prefix == "st:":
        from data_prep.embedding.sentence_encoder import load_sentence_encoder

        return load_sentence_encoder(args, processes)
    make = find_own_encoder(args.model)
    return load_open_clip_encoder(args, processes) if make is None else wrap_encoder(make, args, processes)


class _Images(Dataset):
    """Images as encoder input; checks that each file still matches its digest."""

    def __init__(self, samples: Sequence[Sample], preprocess: Callable[[Image.Image], Any]):
        self.samples, self.preprocess = samples, preprocess

    def __getitem__(self, index: int) -> tuple[str, str, Any]:
        sample = self.samples[index]
        data = Path(sample.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != sample.digest:
            raise UserError(f"{sample.path}: has changed since the data set was read; run the command again")
        return "image", sample.digest, self.preprocess(open_image(data, sample.path))


class _Regions(Dataset):
    """Cropped regions as encoder input."""

    def __init__(self, regions: Sequence[Region], keys: list[str], args: RegionArgs, preprocess: Callable):
        self.regions, self.keys, self.args, self.preprocess = regions, keys, args, preprocess

    def __getitem__(self, index: int) -> tuple[str, str, Any]:
        return "image", self.keys[index], self.preprocess(open_region(self.regions[index], self.args))


class _Texts(Dataset):
    """Names or descriptions as encoder input: the prompts of each."""

    def __init__(self, prompts: list[list[str]], keys: list[str]):
        self.prompts, self.keys = prompts, keys

    def __getitem__(self, index: int) -> tuple[str, str, list[str]]:
        return "name", self.keys[index], self.prompts[index]


@functools.cache
def _log_reuse(folder: Path, count: int, items: str) -> None:
    """Logs that vectors are reused, once for as many of the same: an evaluation reads them several times."""
    log.info("embeddings: reusing %d %s", count, items)


def _embed(
    encoder: Encoder,
    make_rows: Callable[[], Dataset],
    keys: list[str],
    batch_size: int,
    workers: int,
    items: str,
    cache: Path,
) -> np.ndarray:
    """Embeds the rows that are not in the cache, and returns the vectors of all."""
    store = EmbeddingStore(cache / f"embeddings-{encoder.id}", encoder.metadata)
    missing = store.missing(keys)
    if missing:
        from data_prep.embedding.embedding import PartWriter, embed_missing  # slow: it loads Lightning

        log.info("embeddings: computing %d of %d %s", len(missing), len(keys), items)
        embed_missing(encoder, make_rows(), missing, batch_size, workers, PartWriter(store, items))
    else:
        _log_reuse(store.folder, len(keys), items)
    return check_vectors(store.read(keys), len(keys), encoder.origin)


def embed_images(encoder: Encoder, samples: Sequence[Sample], args: RetrieverArgs, cache: Path) -> np.ndarray:
    """Embeds images to be compared with images; embeddings are cached by encoder and image content.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the samples.

    Raises:
        UserError: A file has changed since the data set was read, or the weights do not give unit vectors.
    """
    return _embed_images(encoder.image_encoder, samples, args, cache)


def embed_queries(encoder: Encoder, samples: Sequence[Sample], args: RetrieverArgs, cache: Path) -> Queries:
    """Embeds images to be compared with images and with names; raises as ``embed_images``."""
    images, names = encoder.image_encoder, encoder.name_encoder
    if images is names:
        return _embed_images(images, samples, args, cache)
    return PairedQueries(*(_embed_images(side, samples, args, cache) for side in (images, names)))


def _embed_images(encoder: Encoder, samples: Sequence[Sample], args: RetrieverArgs, cache: Path) -> np.ndarray:
    keys = [sample.digest for sample in samples]

    def make_rows() -> Dataset:
        return _Images(samples, encoder.preprocess)

    _project_missing(encoder, samples, args, cache)
    return _embed(encoder, make_rows, keys, args.batch_size, args.num_workers, "images", cache)


def _project_missing(encoder: Encoder, samples: Sequence[Sample], args: RetrieverArgs, cache: Path) -> None:
    """Embeds the images that the cache lacks from features of the encoder's towers, where these are separate."""
    store = EmbeddingStore(cache / f"embeddings-{encoder.id}", encoder.metadata)
    missing = [samples[row] for row in store.missing([sample.digest for sample in samples])]
    towers = encoder.towers() if missing else None
    if towers is not None:
        features = embed_images(towers, missing, args, cache)
        store.write([sample.digest for sample in missing], encoder.project_images(features))


def embed_regions(encoder: Encoder, regions: Sequence[Region], args: RetrieverArgs, cache: Path) -> np.ndarray:
    """Embeds regions of images to be compared with names; cached by image content, box and region settings.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the regions.
    """
    encoder = encoder.name_encoder
    keys = [region_key(region, args.regions) for region in regions]

    def make_rows() -> Dataset:
        return _Regions(regions, keys, args.regions, encoder.preprocess)

    return _embed(encoder, make_rows, keys, args.batch_size, args.num_workers, "regions", cache)


def _embed_texts(
    encoder: Encoder, texts: Sequence[str], templates: list[str], args: RetrieverArgs, items: str, cache: Path
) -> np.ndarray:
    """Embeds texts, each averaged over the templates, shape ``[n, d]``."""
    encoder.check_texts(texts, templates, items)
    prompts = [[template.format(text) for template in templates] for text in texts]
    keys = [hashlib.sha256(json.dumps(rows).encode()).hexdigest() for rows in prompts]
    return _embed(
        encoder, lambda: _Texts(prompts, keys), keys, max(1, args.batch_size // len(templates)), 0, items, cache
    )


def check_reads_texts(encoder: Encoder) -> None:
    """Checks that an encoder embeds names.

    Raises:
        UserError: It embeds images alone.
    """
    check(encoder.reads_texts, f"{encoder.origin} embeds images alone, and this needs embeddings of class names")


def embed_names(
    encoder: Encoder,
    names: Sequence[str],
    args: RetrieverArgs,
    cache: Path,
    descriptions: Sequence[Sequence[str]] = (),
) -> np.ndarray:
    """Embeds class names: the mean over the templates, normalised again; without templates, the bare names.

    Embeddings are cached by encoder and prompts.

    Args:
        encoder: The encoder.
        names: Class names.
        args: Templates and batch size.
        cache: Cache folder.
        descriptions: Texts that describe each class, embedded as they are. A class with texts gets the mean of its
            name's and its texts' vectors, normalised, as in CuPL (arXiv 2209.03320). Empty: no class has any.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the names.

    Raises:
        UserError: The encoder embeds images alone.
    """
    check_reads_texts(encoder)
    encoder = encoder.name_encoder
    templates = list(args.templates) or ["{}"]
    vectors = _embed_texts(encoder, names, templates, args, "names", cache)
    owners = [row for row, texts in enumerate(descriptions) for _ in texts]
    if not owners:
        return vectors
    texts = [text for texts in descriptions for text in texts]
    np.add.at(vectors, owners, _embed_texts(encoder, texts, ["{}"], args, "descriptions", cache))
    described = sorted(set(owners))
    vectors[described] /= np.linalg.norm(vectors[described], axis=1, keepdims=True)
    return vectors
