"""Pairs of encoders, one for the memory of images and one for that of names, and queries embedded by both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint
from data_prep.embedding.base import Encoder
from data_prep.settings import RetrieverArgs, check


@dataclass(frozen=True)
class PairedQueries:
    """Queries embedded by each encoder of a pair.

    Attributes:
        images: To be compared with images: unit vectors of shape ``[nq, d]``.
        names: To be compared with names: unit vectors of shape ``[nq, e]``.
    """

    images: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any) -> PairedQueries:
        return PairedQueries(self.images[rows], self.names[rows])


Queries = np.ndarray | PairedQueries
"""Unit queries: an array ``[nq, d]`` for images and names, or one for each."""


def for_images(xq: Queries) -> np.ndarray:
    """Returns the vectors of queries that are compared with images, ``[nq, d]``."""
    return xq.images if isinstance(xq, PairedQueries) else xq


def for_names(xq: Queries) -> np.ndarray:
    """Returns the vectors of queries that are compared with names, ``[nq, d]``."""
    return xq.names if isinstance(xq, PairedQueries) else xq


class EncoderPair(Encoder):
    """Two encoders: one for images that are compared with images, one for names and images compared with them.

    Args:
        images: The encoder of ``retriever.model``.
        names: That of ``retriever.name_model``.
        args: The settings, for messages.

    Raises:
        UserError: The encoder of names embeds images alone.
    """

    def __init__(self, images: Encoder, names: Encoder, args: RetrieverArgs):
        check(names.reads_texts, f"retriever.name_model={args.name_model}: it embeds images alone, and no names")
        self._images, self._names = images, names
        self.id = f"pair-{fingerprint([images.id, names.id])}"
        self.metadata = {"images": images.metadata, "names": names.metadata}
        self.processes = images.processes
        self.origin = f"retriever.model={args.model} with retriever.name_model={args.name_model}"

    @property
    def image_encoder(self) -> Encoder:
        """The encoder of ``retriever.model``."""
        return self._images

    @property
    def name_encoder(self) -> Encoder:
        """The encoder of ``retriever.name_model``."""
        return self._names

    def encode_images(self, images: Any) -> Tensor | np.ndarray:
        """Embeds images to be compared with images, as prepared by ``image_encoder``."""
        return self._images.encode_images(images)

    def preprocess(self, image: Any, /) -> Any:
        """Prepares an image for ``image_encoder``."""
        return self._images.preprocess(image)

    def encode_texts(self, texts: list[str]) -> Tensor | np.ndarray:
        """Embeds texts by ``name_encoder``."""
        return self._names.encode_texts(texts)

    def to(self, device: torch.device) -> None:
        """Moves both models to a device."""
        self._images.to(device)
        self._names.to(device)


def split_settings(args: RetrieverArgs) -> tuple[RetrieverArgs, RetrieverArgs]:
    """Returns the settings of the encoder of images and of that of names, each for itself."""
    return (
        _with_model(args, args.model, args.pretrained, args.tag),
        _with_model(args, args.name_model or "", args.name_pretrained, args.name_tag),
    )


def _with_model(args: RetrieverArgs, model: str, pretrained: str | None, tag: str | None) -> RetrieverArgs:
    alone: dict[str, Any] = {"name_model": None, "name_pretrained": None, "name_tag": None}
    if not model.startswith("st:"):
        alone |= {"image_instruction": None, "text_instruction": None}
    return replace(args, model=model, pretrained=pretrained, tag=tag, **alone)


@contextmanager
def to_name_settings() -> Iterator[None]:
    """Turns the settings that an error names into those of the encoder of names, such as ``retriever.name_model``."""
    try:
        yield
    except UserError as error:
        message = re.sub(r"\bretriever\.(model|pretrained|tag)\b", r"retriever.name_\1", str(error))
        raise UserError(message) from None
