"""Chooses the hyperparameters of adapters by top-1 on validation images, over several memories together."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_prep.adapters.fits import Model, fit_device, fit_model
from data_prep.adapters.hyperparameters import EPOCHS, Hyperparameters
from data_prep.adapters.probe import STRENGTHS
from data_prep.adapters.support import Support, make_support, to_tensors
from data_prep.adapters.tip import ALPHAS, BETAS, CacheModel, sum_affinities, tune_keys
from data_prep.core.files import fingerprint, read_sealed, write_sealed
from data_prep.embedding.pair import Queries, for_images, for_names
from data_prep.memory.exact import full_precision
from data_prep.memory.memories import Memories
from data_prep.settings.evaluation import MIN_IMAGES

log = logging.getLogger(__name__)

_VERSION = 1  # of what is compared: raise it when that changes
_HELD = 2**24  # affinities or scores held at once
_BLOCK = 1024  # images that are classified at once


class Validation:
    """Validation images, and the memories that they are classified with.

    Args:
        supports: One for each seed, with the same classes.
        xq: Unit vectors of the images, float32, shape ``[n, d]``, or those of each memory's encoder.
        truths: Their labels, int64, shape ``[n]``.
        cache: Folder of caches.
        accelerator: ``trainer.accelerator``.
    """

    def __init__(self, supports: Sequence[Support], xq: Queries, truths: np.ndarray, cache: Path, accelerator: str):
        self.supports = list({support.identity: support for support in supports}.values())  # seeds may draw the same
        self.xq, self.truths, self.cache, self.accelerator = xq, truths, cache, accelerator

    def identity(self, name: str) -> str:
        """Hash of all that a choice depends on."""
        sides = for_images(self.xq), for_names(self.xq)
        queries = [hashlib.sha256(np.ascontiguousarray(side).data).hexdigest() for side in sides]
        supports = sorted(support.identity for support in self.supports)
        return fingerprint([_VERSION, name, supports, queries, self.truths.tolist()])

    def positions(self, support: Support) -> np.ndarray:
        """Returns the images' classes as indices into a support's, shape ``[n]``; -1 where it lacks the class."""
        found = np.searchsorted(support.labels, self.truths).clip(max=len(support.labels) - 1)
        return np.where(support.labels[found] == self.truths, found, -1)


def choose_hyperparameters(name: str, validation: Validation) -> Hyperparameters:
    """Chooses the hyperparameters of an adapter, or reads them from the cache.

    Tip-Adapter: alpha and beta of a grid. Tip-Adapter-F: the epoch with the best top-1, then alpha and beta. Linear
    probe: the strength of the penalty. Of equals, the first.

    Args:
        name: ``tip``, ``tip_f`` or ``linear_probe``.
        validation: The images, and what they are classified with.
    """
    path = validation.cache / f"adapter-choice-{validation.identity(name)}.json"
    if not path.exists():
        shots = len(validation.supports[0]) / len(validation.supports[0].labels)
        log.info("adapters: %s with %.3g images per class: choosing on %d images", name, shots, len(validation.truths))
        choose = {"tip": _choose_tip, "tip_f": _choose_tip_f, "linear_probe": _choose_strength}[name]
        write_sealed(path, choose(validation).of(name))
    return Hyperparameters.from_dict(read_sealed(path, "delete it to have it made again"))


def choose_for_memories(
    names: Sequence[str],
    memories: Sequence[Memories],
    xq: Queries,
    truths: np.ndarray,
    cache: Path,
    accelerator: str,
    least: int = MIN_IMAGES,
) -> dict[str, dict[str, float]]:
    """Chooses the hyperparameters of adapters that are fitted to memories of one kind.

    Args:
        names: The adapters.
        memories: Of the validation images' classes, one for each seed.
        xq: Unit queries of shape ``[n, d]``, or those of each memory's encoder.
        truths: Their labels, shape ``[n]``.
        cache: Folder of caches.
        accelerator: ``trainer.accelerator``.
        least: Number of images below which the papers' values are used.

    Returns:
        dict: The hyperparameters of each adapter, by its name.
    """
    if len(truths) < least:
        return {name: Hyperparameters().of(name) for name in names}
    supports = [make_support(of_seed) for of_seed in memories] if names else []
    validation = Validation(supports, xq, truths, cache, accelerator)
    return {name: choose_hyperparameters(name, validation).of(name) for name in names}


@torch.inference_mode()
def count_hits(
    model: CacheModel, xq: Queries, positions: np.ndarray, alphas: Sequence[float], betas: Sequence[float]
) -> np.ndarray:
    """Counts the images whose class has the highest logit, for every pair of alpha and beta.

    Args:
        model: A cache and names; its own alpha and beta are not used.
        xq: Images, shape ``[n, d]``, or those of each memory's encoder.
        positions: Their classes, as indices, shape ``[n]``.
        alphas: Weights of the cache.
        betas: Sharpnesses.

    Returns:
        np.ndarray: Shape ``[len(alphas), len(betas)]``, int64.
    """
    device, hits = model.keys.device, np.zeros((len(alphas), len(betas)), np.int64)
    step = max(1, _HELD // max(len(model.keys), len(model.names)))
    for start in range(0, len(xq), step):
        by_image, by_name = to_tensors(xq[start : start + step], device)
        truths = torch.from_numpy(positions[start : start + step]).to(device)
        with full_precision(device):
            zero_shot = (model.names @ by_name.T).mul_(model.scale)
            for column, beta in enumerate(betas):
                cached = sum_affinities(model.keys, model.classes, len(model.names), by_image, beta)
                for row, alpha in enumerate(alphas):
                    best = torch.add(zero_shot, cached, alpha=alpha).argmax(0)
                    hits[row, column] += int((best == truths).sum())
    return hits


def _search_grid(validation: Validation, models: Sequence[CacheModel]) -> tuple[float, float]:
    """Returns the best alpha and beta of the grid."""
    hits = np.zeros((len(ALPHAS), len(BETAS)), np.int64)
    for support, model in zip(validation.supports, models, strict=True):
        hits += count_hits(model, validation.xq, validation.positions(support), ALPHAS, BETAS)
    row, column = np.unravel_index(hits.argmax(), hits.shape)
    return ALPHAS[row], BETAS[column]


def _fit(validation: Validation, name: str, settings: Hyperparameters) -> list[Model]:
    """Fits an adapter to every memory, for scores on the device of the fit."""
    return [
        fit_model(
            name,
            support,
            settings,
            validation.cache,
            validation.accelerator,
            fit_device(name, support, validation.accelerator),
        )
        for support in validation.supports
    ]


def _choose_tip(validation: Validation) -> Hyperparameters:
    alpha, beta = _search_grid(validation, _fit(validation, "tip", Hyperparameters()))
    return Hyperparameters(alpha, beta)


def _choose_tip_f(validation: Validation) -> Hyperparameters:
    default, hits = Hyperparameters(), np.zeros(EPOCHS, np.int64)
    for support in validation.supports:
        positions, device = validation.positions(support), fit_device("tip_f", support, validation.accelerator)

        def after_epoch(epoch: int, keys: Tensor, support=support, positions=positions) -> None:
            model = CacheModel(support, keys, default)
            hits[epoch - 1] += count_hits(model, validation.xq, positions, [default.alpha], [default.beta]).item()

        tune_keys(support, EPOCHS, device, after_epoch)
    epochs = int(hits.argmax()) + 1
    alpha, beta = _search_grid(validation, _fit(validation, "tip_f", Hyperparameters(epochs=epochs)))
    return Hyperparameters(alpha, beta, epochs)


@torch.inference_mode()
def _choose_strength(validation: Validation) -> Hyperparameters:
    hits = dict.fromkeys(STRENGTHS, 0)
    for strength in STRENGTHS:
        settings = Hyperparameters(strength=strength)
        for support, model in zip(validation.supports, _fit(validation, "linear_probe", settings), strict=True):
            positions = validation.positions(support)
            for start in range(0, len(validation.xq), _BLOCK):
                queries = to_tensors(validation.xq[start : start + _BLOCK], model.device)
                best = model.logits(*queries).argmax(0).cpu().numpy()
                hits[strength] += int((best == positions[start : start + _BLOCK]).sum())
    return Hyperparameters(strength=max(hits, key=hits.__getitem__))
