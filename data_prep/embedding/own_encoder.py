"""Encoders of the user's own: made by a function outside the package, checked, and identified by what they are."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, fingerprint
from data_prep.embedding.base import Encoder
from data_prep.embedding.open_clip_models import HUB, LOCAL
from data_prep.extensions.finding import ENCODERS, call_extension, is_reference, load_extension
from data_prep.settings import RetrieverArgs, TrainerArgs

_ID = re.compile(r"[\w.-]{1,80}", re.ASCII)


class OwnEncoder(Encoder):
    """An encoder of the user's own, with an id that depends on its metadata and code.

    Another process makes it again by its function rather than from a pickle, so it may hold anything.

    Args:
        encoder: What the function returned.
        code: SHA-256 of the file that defines it.
        args: Settings that the function got.
        processes: Devices and machines to embed on.
    """

    def __init__(self, encoder: Encoder, code: str, args: RetrieverArgs, processes: TrainerArgs):
        self.encoder, self.args, self.processes = encoder, args, processes
        self.metadata = {**encoder.metadata, "encoder": encoder.id, "code": code}
        self.id = f"{encoder.id}-{fingerprint(self.metadata)}"
        self.origin = f"retriever.model={args.model}"

    def __reduce__(self) -> tuple:
        return _make_again, (self.args, self.processes)

    @property
    def reads_texts(self) -> bool:
        """Whether the user's encoder defines ``encode_texts``."""
        return self.encoder.reads_texts

    def preprocess(self, image: Image.Image, /) -> Any:
        """Prepares an image as the user's encoder does."""
        return self.encoder.preprocess(image)

    def encode_images(self, images: Any) -> Tensor | np.ndarray:
        """Embeds a batch by the user's encoder."""
        return self.encoder.encode_images(images)

    def encode_texts(self, texts: list[str]) -> Tensor | np.ndarray:
        """Embeds texts by the user's encoder."""
        return self.encoder.encode_texts(texts)

    def to(self, device: torch.device) -> None:
        """Moves the user's encoder to a device."""
        self.encoder.to(device)

    def check_texts(self, *args: Any) -> None:
        """Has the user's encoder warn of texts that it cannot read in full."""
        self.encoder.check_texts(*args)


def _make_again(args: RetrieverArgs, processes: TrainerArgs) -> Encoder:
    from data_prep.embedding.encoder import load_encoder

    return load_encoder(args, processes)


def find_own_encoder(model: str) -> Callable | None:
    """Returns the function that makes an encoder of the user's own; None for an open_clip model.

    Built-in names come first.

    Args:
        model: ``retriever.model``.

    Raises:
        UserError: It cannot be imported.
    """
    if not is_reference(model):
        import open_clip

        if model == "nano-clip" or model.startswith((LOCAL, HUB)) or model in open_clip.list_models():
            return None
    return load_extension("retriever.model", model, ENCODERS)


def wrap_encoder(make: Callable, args: RetrieverArgs, processes: TrainerArgs) -> OwnEncoder:
    """Makes an encoder by a function of the user's, and checks what the project needs of it.

    Args:
        make: Takes the retriever's settings and returns an ``Encoder``.
        args: The settings.
        processes: Devices and machines to embed on.

    Raises:
        UserError: The function fails, or returns no encoder, or one without a usable ``id`` or ``metadata``.
    """
    shown = f"retriever.model={args.model}"
    encoder = call_extension(make, args, failure=f"{shown}: it failed")
    if not isinstance(encoder, Encoder):
        raise UserError(f"{shown}: returned {type(encoder).__name__}; return an instance of data_prep.Encoder")
    name, metadata = getattr(encoder, "id", None), getattr(encoder, "metadata", None)
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise UserError(f"{shown}: its id is {name!r}; set it to a short name of letters, digits, -, _ and .")
    try:
        is_json = isinstance(metadata, dict) and json.dumps(metadata, allow_nan=False) is not None
    except (TypeError, ValueError):
        is_json = False
    if not is_json:
        raise UserError(
            f"{shown}: its metadata is no dictionary of plain JSON values; give all that its vectors depend on, such "
            'as {"weights": state_hash(model)}'
        )
    return OwnEncoder(encoder, _code_hash(type(encoder)), args, processes)


def _code_hash(kind: type) -> str:
    """Returns the SHA-256 of the file that defines a class; empty for one that has no file, as in a notebook."""
    try:
        return file_hash(Path(inspect.getfile(kind)))
    except (TypeError, OSError):
        return ""
