"""CLIP encoder: loads any open_clip model and embeds images, regions and class names with a cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint
from data_prep.core.images import VERSION, open_image
from data_prep.core.records import Sample
from data_prep.embedding.embedding import PartWriter, check_norms, embed_missing
from data_prep.embedding.name_tokens import tokenize_names, tokenize_texts
from data_prep.embedding.open_clip_models import LOCAL, architecture, load_open_clip
from data_prep.embedding.open_clip_models import NANO_CLIP as NANO_CLIP
from data_prep.embedding.regions import Region, open_region, region_key
from data_prep.embedding.store import EmbeddingStore
from data_prep.settings import RegionArgs, RetrieverArgs, TrainerArgs

log = logging.getLogger(__name__)

_PROBE = "The quick brown fox jumps over 13 lazy dogs; Zoë's café."  # tokenizers encode it differently


@dataclass(frozen=True)
class Encoder:
    """A loaded CLIP encoder with its preprocessing and identity.

    Attributes:
        model: open_clip model in eval mode.
        preprocess: Maps a PIL image to a tensor ``[3, h, w]``.
        augment: The same with open_clip's random crops, for training.
        tokenize: Maps texts to token ids ``[n, context]``.
        dtype: Data type of the model's pixel input.
        id: Short identifier of model, weights and preprocessing; embeddings and memories are keyed by it.
        metadata: Model, weights and preprocessing in full, from which the id is computed.
        processes: Devices and machines to embed on.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    augment: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    dtype: torch.dtype
    id: str
    metadata: dict
    processes: TrainerArgs


def state_hash(model: nn.Module) -> str:
    """Returns the SHA-256 of a model's weights and their names, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def encoder_id(name: str, metadata: dict) -> str:
    """Returns an id derived from the encoder's content: equal weights give the same id from any path or tag."""
    content = {key: value for key, value in metadata.items() if key not in ("model", "pretrained")}
    return f"{name}-{fingerprint(content)}"


def load_encoder(args: RetrieverArgs, processes: TrainerArgs | None = None) -> Encoder:
    """Loads an open_clip model with pretrained weights; never with random ones.

    Args:
        args: Which model.
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
    model, augment, preprocess, tokenize = load_open_clip(args)
    visual: Any = model.visual
    metadata = {
        "model": args.model,
        "pretrained": args.pretrained or "",
        "weights": state_hash(model),
        # Weights do not determine the architecture: the number of heads and the activation are not visible in them.
        "architecture": fingerprint([architecture(args, model), repr(model)]),
        "tokens": fingerprint(tokenize([_PROBE]).tolist()),
        "transform": f"images-{VERSION} {json.dumps(visual.preprocess_cfg, sort_keys=True)}",
        "dtype": args.dtype,
    }
    name = "clip" if args.model.startswith(LOCAL) else Path(args.model).name
    return Encoder(
        model,
        preprocess,
        augment,
        tokenize,
        getattr(torch, args.dtype),
        encoder_id(name, metadata),
        metadata,
        processes or TrainerArgs(),
    )


class _Images(Dataset):
    """Images as encoder input; checks that each file still matches its digest."""

    def __init__(self, samples: Sequence[Sample], preprocess: Callable[[Image.Image], Tensor]):
        self.samples, self.preprocess = samples, preprocess

    def __getitem__(self, index: int) -> tuple[str, str, Tensor]:
        sample = self.samples[index]
        data = Path(sample.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != sample.digest:
            raise UserError(f"{sample.path}: has changed since the data set was read; run the command again")
        return "image", sample.digest, self.preprocess(open_image(data, sample.path))


class _Regions(Dataset):
    """Cropped regions as encoder input."""

    def __init__(self, regions: Sequence[Region], keys: list[str], args: RegionArgs, preprocess: Callable):
        self.regions, self.keys, self.args, self.preprocess = regions, keys, args, preprocess

    def __getitem__(self, index: int) -> tuple[str, str, Tensor]:
        return "image", self.keys[index], self.preprocess(open_region(self.regions[index], self.args))


class _Texts(Dataset):
    """Tokenized names or descriptions as encoder input."""

    def __init__(self, ids: Tensor, keys: list[str]):
        self.ids, self.keys = ids, keys

    def __getitem__(self, index: int) -> tuple[str, str, Tensor]:
        return "name", self.keys[index], self.ids[index]


def _embed(
    encoder: Encoder, rows: Dataset, keys: list[str], batch_size: int, workers: int, items: str, cache: Path
) -> np.ndarray:
    """Embeds the rows that are not in the cache, and returns the vectors of all."""
    store = EmbeddingStore(cache / f"embeddings-{encoder.id}", encoder.metadata)
    missing = store.missing(keys)
    if missing:
        log.info("embeddings: computing %d of %d %s", len(missing), len(keys), items)
        embed_missing(
            encoder.model,
            encoder.dtype,
            rows,
            missing,
            batch_size,
            workers,
            PartWriter(store, items),
            encoder.processes,
        )
    else:
        log.info("embeddings: reusing %d %s", len(keys), items)
    return check_norms(store.read(keys))


def embed_images(encoder: Encoder, samples: Sequence[Sample], args: RetrieverArgs, cache: Path) -> np.ndarray:
    """Embeds images; embeddings are cached by encoder and image content.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the samples.

    Raises:
        UserError: A file has changed since the data set was read, or the weights do not give unit vectors.
    """
    keys = [sample.digest for sample in samples]
    return _embed(
        encoder, _Images(samples, encoder.preprocess), keys, args.batch_size, args.num_workers, "images", cache
    )


def embed_regions(encoder: Encoder, regions: Sequence[Region], args: RetrieverArgs, cache: Path) -> np.ndarray:
    """Embeds regions of images; embeddings are cached by image content, box and region settings.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the regions.
    """
    keys = [region_key(region, args.regions) for region in regions]
    rows = _Regions(regions, keys, args.regions, encoder.preprocess)
    return _embed(encoder, rows, keys, args.batch_size, args.num_workers, "regions", cache)


def _embed_tokens(encoder: Encoder, ids: Tensor, args: RetrieverArgs, items: str, cache: Path) -> np.ndarray:
    """Embeds token ids of shape ``[texts, templates, context]``: a vector for each text."""
    keys = [hashlib.sha256(repr(rows).encode()).hexdigest() for rows in ids.tolist()]
    return _embed(encoder, _Texts(ids, keys), keys, max(1, args.batch_size // ids.shape[1]), 0, items, cache)


def embed_names(
    encoder: Encoder,
    names: Sequence[str],
    args: RetrieverArgs,
    cache: Path,
    descriptions: Sequence[Sequence[str]] = (),
) -> np.ndarray:
    """Embeds class names: the mean over the templates, normalised again; without templates, the bare names.

    Embeddings are cached by encoder and token ids.

    Args:
        encoder: The encoder.
        names: Class names.
        args: Templates and batch size.
        cache: Cache folder.
        descriptions: Texts that describe each class, embedded as they are. A class with texts gets the mean of its
            name's and its texts' vectors, normalised, as in CuPL (arXiv 2209.03320). Empty: no class has any.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the names.
    """
    templates = list(args.templates) or ["{}"]
    vectors = _embed_tokens(encoder, tokenize_names(encoder.tokenize, names, templates), args, "names", cache)
    owners = [row for row, texts in enumerate(descriptions) for _ in texts]
    if not owners:
        return vectors
    texts = [text for texts in descriptions for text in texts]
    ids = tokenize_texts(encoder.tokenize, texts, ["{}"], "descriptions")
    np.add.at(vectors, owners, _embed_tokens(encoder, ids, args, "descriptions", cache))
    described = sorted(set(owners))
    vectors[described] /= np.linalg.norm(vectors[described], axis=1, keepdims=True)
    return vectors
