"""The CLIP encoder: any open_clip model, and the embeddings of images, regions and names."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from data_prep.embedding.name_tokens import name_tokens
from data_prep.embedding.open_clip_models import LOCAL, architecture, load_open_clip
from data_prep.embedding.open_clip_models import NANO_CLIP as NANO_CLIP
from data_prep.embedding.regions import Region, open_region, region_key
from data_prep.embedding.store import EmbeddingStore
from data_prep.settings import RegionArgs, RetrieverArgs, TrainerArgs

log = logging.getLogger(__name__)

_PROBE = "The quick brown fox jumps over 13 lazy dogs; Zoë's café."  # tokenizers differ in what they make of it


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder.

    Attributes:
        model: open_clip's model in eval mode.
        preprocess: From a PIL image to a tensor ``[3, h, w]``.
        augment: The same with open_clip's random crops, for training.
        tokenize: From texts to token ids ``[n, context]``.
        dtype: What the model takes pixels in.
        id: Model, weights and preprocessing in short; embeddings and memories carry it.
        metadata: The same at length.
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
    """SHA-256 of a model's weights, names included, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def encoder_id(name: str, metadata: dict) -> str:
    """Names an encoder by its content: weights from any path, or a tag's, are the same encoder where they are equal."""
    return (
        f"{name}-{fingerprint({key: value for key, value in metadata.items() if key not in ('model', 'pretrained')})}"
    )


def load_encoder(args: RetrieverArgs, processes: TrainerArgs | None = None) -> Encoder:
    """Loads an open_clip model with weights; never with random ones.

    Args:
        args: Which model.
        processes: Devices and machines to embed on; by default one device of this machine.

    Raises:
        UserError: No weights are named, or the model or its weights cannot be had; the message
            says how to point to a local copy.
    """
    model, augment, preprocess, tokenize = load_open_clip(args)
    metadata = {
        "model": args.model,
        "pretrained": args.pretrained or "",
        "weights": state_hash(model),
        # Weights alone do not tell an architecture: heads and activations leave no trace in them.
        "architecture": fingerprint([architecture(args, model), repr(model)]),
        "tokens": fingerprint(tokenize([_PROBE]).tolist()),
        "transform": f"images-{VERSION} {json.dumps(model.visual.preprocess_cfg, sort_keys=True)}",
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
    """Decodes images, and makes sure that each is still the one that its digest names."""

    def __init__(self, samples: Sequence[Sample], preprocess: Callable[[Image.Image], Tensor]):
        self.samples, self.preprocess = samples, preprocess

    def __getitem__(self, number: int) -> tuple[str, str, Tensor]:
        sample = self.samples[number]
        data = Path(sample.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != sample.digest:
            raise UserError(f"{sample.path}: has changed since the data set was read; run the command again")
        return "image", sample.digest, self.preprocess(open_image(data, sample.path))


class _Regions(Dataset):
    def __init__(self, regions: Sequence[Region], keys: list[str], args: RegionArgs, preprocess: Callable):
        self.regions, self.keys, self.args, self.preprocess = regions, keys, args, preprocess

    def __getitem__(self, number: int) -> tuple[str, str, Tensor]:
        return "image", self.keys[number], self.preprocess(open_region(self.regions[number], self.args))


class _Names(Dataset):
    def __init__(self, ids: Tensor, keys: list[str]):
        self.ids, self.keys = ids, keys

    def __getitem__(self, number: int) -> tuple[str, str, Tensor]:
        return "name", self.keys[number], self.ids[number]


def _embed(
    encoder: Encoder, rows: Dataset, keys: list[str], size: int, workers: int, what: str, cache: Path
) -> np.ndarray:
    """Embeds the rows that the store lacks, and reads all."""
    store = EmbeddingStore(cache / f"embeddings-{encoder.id}", encoder.metadata)
    missing = store.missing(keys)
    if missing:
        log.info("embeddings: computing %d of %d %s", len(missing), len(keys), what)
        embed_missing(
            encoder.model, encoder.dtype, rows, missing, size, workers, PartWriter(store, what), encoder.processes
        )
    else:
        log.info("embeddings: reusing %d %s", len(keys), what)
    return check_norms(store.read(keys))


def embed_images(encoder: Encoder, samples: Sequence[Sample], args: RetrieverArgs, cache: Path) -> np.ndarray:
    """Embeds images, or finds their embeddings in the cache by encoder and content.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the samples.

    Raises:
        UserError: A file is not what it was when the data set was read, or the weights give no unit vectors.
    """
    keys = [sample.digest for sample in samples]
    return _embed(
        encoder, _Images(samples, encoder.preprocess), keys, args.batch_size, args.num_workers, "images", cache
    )


def embed_regions(encoder: Encoder, regions: Sequence[Region], args: RetrieverArgs, cache: Path) -> np.ndarray:
    """Embeds regions of images, cached by image content, box and region settings.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the regions.
    """
    keys = [region_key(region, args.regions) for region in regions]
    rows = _Regions(regions, keys, args.regions, encoder.preprocess)
    return _embed(encoder, rows, keys, args.batch_size, args.num_workers, "regions", cache)


def embed_names(encoder: Encoder, names: Sequence[str], args: RetrieverArgs, cache: Path) -> np.ndarray:
    """Embeds class names: the mean over the templates, normalised again; without templates, the bare names.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the names.
    """
    templates = list(args.templates) or ["{}"]
    ids = name_tokens(encoder.tokenize, names, templates)
    keys = [hashlib.sha256(repr(rows).encode()).hexdigest() for rows in ids.tolist()]
    size = max(1, args.batch_size // len(templates))
    return _embed(encoder, _Names(ids, keys), keys, size, 0, "names", cache)
