"""Padding of model inputs, and their transfer to the model's device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import BatchFeature


def pin_inputs(inputs: BatchFeature) -> BatchFeature:
    """Copies inputs into pinned memory, from which ``to_device`` copies to a CUDA GPU without waiting."""
    return BatchFeature({key: value.pin_memory() for key, value in inputs.items()})


def to_device(inputs: BatchFeature, like: Tensor) -> BatchFeature:
    """Moves inputs to a parameter's device, and floating-point inputs to its dtype.

    The dtype is changed on the device, since a copy that changes it would go through memory that is not pinned.
    """
    without_waiting = like.device.type == "cuda"
    moved = {key: value.to(like.device, non_blocking=without_waiting) for key, value in inputs.items()}
    return BatchFeature(
        {key: value.to(like.dtype) if value.is_floating_point() else value for key, value in moved.items()}
    )


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Stacks rows of ids, padded on the right, into shape ``[n, longest]``."""
    return nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)
