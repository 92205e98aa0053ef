"""Padding of model inputs, and their transfer to the model's device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import BatchFeature


def pin_inputs(inputs: BatchFeature) -> BatchFeature:
    """Copies inputs into pinned memory, from which ``to_device`` copies to a CUDA GPU without waiting."""
    return BatchFeature({key: value.pin_memory() for key, value in inputs.items()})


def move(value: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Moves an input to a device, and casts a floating-point one.

    The dtype is changed on the device, since a copy that changes it would go through memory that is not pinned.
    """
    moved = value.to(device, non_blocking=device.type == "cuda")
    return moved.to(dtype) if dtype is not None and moved.is_floating_point() else moved


def to_device(inputs: BatchFeature, like: Tensor) -> BatchFeature:
    """Moves inputs to a parameter's device, and floating-point inputs to its dtype."""
    return BatchFeature({key: move(value, like.device, like.dtype) for key, value in inputs.items()})


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Stacks rows of ids, padded on the right, into shape ``[n, longest]``."""
    return nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)
