"""Encoders of open_clip: models of images and texts, with the activation and preprocessing of their weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from data_prep.core.files import fingerprint
from data_prep.core.images import VERSION
from data_prep.embedding.base import Encoder
from data_prep.embedding.identity import PROBE, encoder_id, state_hash
from data_prep.embedding.name_tokens import tokenize_names, tokenize_texts
from data_prep.embedding.open_clip_models import LOCAL, architecture, load_open_clip
from data_prep.embedding.projections import without_projections
from data_prep.settings import RetrieverArgs, TrainerArgs


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

    def towers(self) -> OpenClipEncoder | None:
        """Returns the encoder without its projections; None where they cannot be separated from the towers."""
        model = without_projections(self.model) if self.dtype == torch.float32 else None
        if model is None:
            return None
        metadata = self.metadata | {"weights": state_hash(model), "architecture": fingerprint(repr(model))}
        return replace(self, model=model, id=encoder_id("towers", metadata), metadata=metadata)

    @torch.inference_mode()
    def project_images(self, features: np.ndarray) -> np.ndarray:
        """Embeds the towers' features: a projection without bias does not depend on their length."""
        visual: Any = self.model.visual
        return F.normalize(visual.head(torch.from_numpy(features)).float(), dim=-1).numpy()

    def check_texts(self, texts: Sequence[str], templates: Sequence[str], items: str) -> None:
        """Warns of truncated texts, and of names with identical tokens."""
        if items == "names":
            tokenize_names(self.tokenize, texts, templates)
        else:
            tokenize_texts(self.tokenize, texts, templates, items)


def load_open_clip_encoder(args: RetrieverArgs, processes: TrainerArgs) -> OpenClipEncoder:
    """Loads an open_clip model as an encoder; see ``load_open_clip``."""
    model, augment, preprocess, tokenize = load_open_clip(args)
    visual: Any = model.visual
    metadata = {
        "model": args.model,
        "pretrained": args.pretrained or "",
        "weights": state_hash(model),
        # Weights do not determine the architecture: the number of heads and the activation are not visible in them.
        "architecture": fingerprint([architecture(args, model), repr(model)]),
        "tokens": fingerprint(tokenize([PROBE]).tolist()),
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
