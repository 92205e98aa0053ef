"""Identities of encoders: derived from weights, architecture and preprocessing, not from names or paths."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from data_prep.core.files import fingerprint

PROBE = "The quick brown fox jumps over 13 lazy dogs; Zoë's café."
"""A text that tokenizers encode differently."""


def own_weights(model: nn.Module) -> None:
    """Copies a model's weights into memory of their own, in place.

    Libraries map them from a file, where they begin at any offset; products then differ in their last bits from those
    of a copy, such as another process gets.
    """
    for value in (*model.parameters(), *model.buffers()):
        value.data = value.data.clone()


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
