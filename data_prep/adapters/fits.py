"""Fits of adapters, kept in the cache by their content, and the bound beyond which an adapter is left out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from data_prep.adapters.hyperparameters import EPOCHS, Hyperparameters
from data_prep.adapters.probe import ITERATIONS, LinearModel, fit_probe
from data_prep.adapters.support import Support
from data_prep.adapters.tip import CacheModel, tune_keys
from data_prep.core.files import fingerprint, write_folder
from data_prep.core.manifests import read_sealed_folder, seal_folder
from data_prep.memory.exact import search_device

log = logging.getLogger(__name__)

Model = CacheModel | LinearModel

_VERSION = 1  # of the fits: raise it when they change
_WEIGHTS = "weights.safetensors"
_MOST_VALUES = 2**30
"""Values of the images' embeddings that an adapter holds in memory: 4 GB."""
_MOST_WORK = {"cpu": 10**13, "cuda": 10**15}
"""Multiplications of a fit, which take minutes."""


def _work(name: str, support: Support) -> int:
    """Returns an upper bound on the multiplications of a fit."""
    count, dimension = support.xb.shape
    if name == "tip":
        return 0
    if name == "tip_f":
        return 2 * EPOCHS * count * count * dimension
    return 2 * ITERATIONS * count * len(support.labels) * dimension


def fit_device(name: str, support: Support, accelerator: str) -> torch.device:
    """Returns the device of a fit."""
    entries, dimension = max(len(support), len(support.labels)), support.xb.shape[1]
    return search_device(_work(name, support) // (entries * dimension), entries, dimension, accelerator)


def find_obstacle(name: str, support: Support, accelerator: str) -> str | None:
    """Says why an adapter cannot be fitted; None if it can."""
    if name != "linear_probe" and support.names is None:
        return "the encoder embeds images alone, and it needs names"
    if name == "tip_f" and not support.one_space:
        return "one encoder embeds images and another names, and it needs both from one"
    if support.xb.size > _MOST_VALUES:
        return f"{support.xb.size:.1e} values of embeddings are more than {_MOST_VALUES:.1e}"
    work, device = _work(name, support), fit_device(name, support, accelerator).type
    if work > _MOST_WORK[device]:
        size = f"{len(support)} images of {len(support.labels)} classes"
        return (
            f"a fit to {size} would take {work:.1e} multiplications, more than {_MOST_WORK[device]:.0e} on a {device}"
        )
    return None


def fit_model(
    name: str, support: Support, settings: Hyperparameters, cache: Path, accelerator: str, device: torch.device
) -> Model:
    """Fits an adapter, or loads the fit from the cache.

    Args:
        name: ``tip``, ``tip_f`` or ``linear_probe``.
        support: The images and names.
        settings: Its hyperparameters.
        cache: Folder of caches.
        accelerator: ``trainer.accelerator``, for the fit.
        device: Where the model computes scores.
    """
    if name == "tip":
        return CacheModel(support, torch.from_numpy(support.xb).to(device), settings)
    if name == "tip_f":
        keys = _cached(name, support, settings.epochs, cache, accelerator, tune_keys)
        return CacheModel(support, torch.from_numpy(keys).to(device), settings)
    weights = _cached(name, support, settings.strength, cache, accelerator, fit_probe)
    return LinearModel(weights, support.scale, device)


def _cached(
    name: str,
    support: Support,
    setting: float,
    cache: Path,
    accelerator: str,
    fit: Callable[[Support, float, torch.device], np.ndarray],
) -> np.ndarray:
    folder = cache / f"adapter-{name}-{fingerprint([_VERSION, support.identity, setting])}"
    if not (folder / "manifest.json").exists():
        log.debug("adapters: fitting %s to %d images of %d classes", name, len(support), len(support.labels))
        weights = fit(support, setting, fit_device(name, support, accelerator))
        with write_folder(folder) as part:
            save_file({"weights": np.ascontiguousarray(weights)}, part / _WEIGHTS)
            seal_folder(part, {"adapter": name, "setting": setting, "images": len(support)})
    read_sealed_folder(folder, f"delete {folder} to have it fitted again")
    return load_file(folder / _WEIGHTS)["weights"]
