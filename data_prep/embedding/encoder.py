"""Loads an encoder, an open_clip model or one of the user's own, and embeds images, regions and names with a cache."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint
from data_prep.core.images import VERSION, open_image
from data_prep.core.records import Sample
from data_prep.embedding.base import Encoder as Encoder
from data_prep.embedding.base import check_vectors
from data_prep.embedding.name_tokens import tokenize_names, tokenize_texts
from data_prep.embedding.open_clip_models import LOCAL, architecture, load_open_clip
from data_prep.embedding.open_clip_models import NANO_CLIP as NANO_CLIP
from data_prep.embedding.own_encoder import find_own_encoder, wrap_encoder
from data_prep.embedding.regions import Region, open_region, region_key
from data_prep.embedding.store import EmbeddingStore
from data_prep.settings import RegionArgs, RetrieverArgs, TrainerArgs, check

log = logging.getLogger(__name__)

_PROBE = "The quick brown fox jumps over 13 lazy dogs; Zoë's café."  # tokenizers encode it differently


@dataclass(frozen=True)
class OpenClipEncoder(Encoder):
    """A loaded open_clip model with its preprocessing and identity.

    Attributes:
        model: open_clip model in eval mode.
        preprocess: Maps a PIL image to a tensor ``[3, h, w]``.
        augment: The same with open_clip's random crops, for training.
        tokenize: Maps texts to token ids ``[n, context]``.
        dtype: Data type of the model's pixel input.
        id: Derived from model, weights and preprocessing.
        metadata: Model, weights and preprocessing in full, from which the id is computed.
        processes: Devices and machines to embed on.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor] = field()  # field(), or the base class's would be its default
    augment: Callable[[Image.Image], Tensor]
    tokenize: Callable[..., Tensor]
    dtype: torch.dtype
    id: str
    metadata: dict
    processes: TrainerArgs = field()

    def to(self, device: torch.device) -> None:
        """Moves the model to a device."""
        self.model.to(device)

    def encode_images(self, images: Tensor) -> Tensor:
        """Embeds pixels of shape ``[n, 3, h, w]``."""
        model: Any = self.model
        return F.normalize(model.encode_image(images.to(self.dtype)).float(), dim=-1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embeds texts; those that are longer than the context are truncated."""
        model: Any = self.model
        device = next(model.parameters()).device
        return F.normalize(model.encode_text(self.tokenize(texts).to(device)).float(), dim=-1)

    def check_texts(self, texts: Sequence[str], templates: Sequence[str], items: str) -> None:
        """Warns of truncated texts, and of names with identical tokens."""
        if items == "names":
            tokenize_names(self.tokenize, texts, templates)
        else:
            tokenize_texts(self.tokenize, texts, templates, items)


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
    """Loads an open_clip model with pretrained weights, never with random ones; or an encoder of the user's own.

    Args:
        args: Which model: an open_clip name, or ``module:function`` or the name of an entry point in the group
            ``rar_train.encoders``, a function that takes these settings and returns an ``Encoder``.
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
    make = find_own_encoder(args.model)
    if make is not None:
        return wrap_encoder(make, args, processes or TrainerArgs())
    return _load_open_clip(args, processes or TrainerArgs())


def _load_open_clip(args: RetrieverArgs, processes: TrainerArgs) -> OpenClipEncoder:
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
    return OpenClipEncoder(
        model,
        preprocess,
        augment,
        tokenize,
        getattr(torch, args.dtype),
        encoder_id(name, metadata),
        metadata,
        processes,
    )


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
    """Embeds images; embeddings are cached by encoder and image content.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the samples.

    Raises:
        UserError: A file has changed since the data set was read, or the weights do not give unit vectors.
    """
    keys = [sample.digest for sample in samples]

    def make_rows() -> Dataset:
        return _Images(samples, encoder.preprocess)

    return _embed(encoder, make_rows, keys, args.batch_size, args.num_workers, "images", cache)


def embed_regions(encoder: Encoder, regions: Sequence[Region], args: RetrieverArgs, cache: Path) -> np.ndarray:
    """Embeds regions of images; embeddings are cached by image content, box and region settings.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the regions.
    """
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
    check(encoder.reads_texts, f"{encoder.origin} embeds images alone, and this needs embeddings of class names")
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
