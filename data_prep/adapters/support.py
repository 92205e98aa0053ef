"""What adapters are fitted on: a memory's images, class by class, and its names as zero-shot weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from data_prep.core.rng import evenly_spaced
from data_prep.embedding.pair import Queries, for_images, for_names
from data_prep.memory.dense import sum_classes
from data_prep.memory.memories import Memories
from data_prep.memory.memory import Memory
from data_prep.memory.pairs import normalize

CLIP_SCALE = 100.0
"""CLIP's factor of similarities, where none can be fitted: names and images are embedded by two encoders."""

IMAGE_SCALE = 1 / 0.07
"""Factor of similarities between images: that of instance discrimination (arXiv 1805.01978)."""

_SCALES = (1.0, 1000.0)  # the factor is fitted between these
_SCALE_SCORES = 2**24  # scores on which it is fitted


@dataclass(frozen=True)
class Support:
    """Labelled image embeddings, and the zero-shot weights of their classes.

    Attributes:
        labels: The classes, int64, ascending, shape ``[c]``.
        xb: Unit vectors of the images, class by class, float32, shape ``[n, d]``.
        classes: The class of each, as an index into ``labels``, int64, shape ``[n]``.
        rows: Their rows in the memory, int64, shape ``[n]``.
        digests: What the memory knows each by: its digest, or else its key.
        names: Unit vectors of the classes' names, float32, shape ``[c, e]``; None where the encoder embeds images
            alone.
        one_space: Whether names and images are embedded by one encoder, so that they can be compared.
    """

    labels: np.ndarray
    xb: np.ndarray
    classes: np.ndarray
    rows: np.ndarray
    digests: tuple[str, ...]
    names: np.ndarray | None
    one_space: bool

    def __len__(self) -> int:
        return len(self.xb)

    def subset(self, keep: np.ndarray) -> Support:
        """Returns the images for which ``keep``, ``[n]``, is true, with all classes."""
        digests = tuple(digest for digest, kept in zip(self.digests, keep.tolist(), strict=True) if kept)
        return replace(self, xb=self.xb[keep], classes=self.classes[keep], rows=self.rows[keep], digests=digests)

    @cached_property
    def identity(self) -> str:
        """Hash of the content, whatever the order in which the memory holds it."""
        digest = hashlib.sha256(repr((self.xb.shape, self.names is None, self.one_space)).encode())
        for array in (self.labels, self.xb, self.classes, self.names):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of images of each class, shape ``[c]``."""
        return np.bincount(self.classes, minlength=len(self.labels))

    @cached_property
    def prototypes(self) -> np.ndarray:
        """Weights that a probe starts from and stays near, ``[c, d]``: the names, or else the classes' mean images."""
        if self.names is not None and self.one_space:
            return self.names
        sums = np.zeros((len(self.labels), self.xb.shape[1]))
        np.add.at(sums, self.classes, self.xb)
        return normalize(sums).astype(np.float32)

    @cached_property
    def scale(self) -> float:
        """Factor of the similarities to ``prototypes``.

        It is the one under which the names give the images' classes the most likelihood: memories do not hold the
        encoder's own, and not every encoder has one.
        """
        if self.names is None or not self.one_space:
            return IMAGE_SCALE
        count = max(1, _SCALE_SCORES // max(len(self.labels), 1))
        rows = evenly_spaced(len(self), min(count, len(self)))
        scores = torch.from_numpy(self.xb[rows] @ self.names.T)
        truths = torch.from_numpy(self.classes[rows])

        def loss(log_scale: float) -> float:
            return float(F.cross_entropy(scores * float(np.exp(log_scale)), truths))

        fit = minimize_scalar(loss, bounds=tuple(np.log(_SCALES)), method="bounded")
        return float(np.exp(fit.x))

    @property
    def name_scale(self) -> float:
        """Factor of the similarities to names."""
        return self.scale if self.one_space else CLIP_SCALE


def make_support(memories: Memories) -> Support:
    """Collects the support of adapters from memories with images; it is kept with them until they change."""
    images, names = memories.images, memories.names
    state = None if names is None else (names.next_id, len(names))
    return images.derive(("support", state), lambda: _collect(images, names))


def _collect(images: Memory, names: Memory | None) -> Support:
    order = sorted(range(len(images)), key=lambda row: (images.labels[row], _identify(images, row)))
    rows = np.array(order, np.int64)
    labels = np.unique(images.labels if names is None else np.concatenate([images.labels, names.labels]))
    weights = None
    if names is not None:
        weights = np.zeros((len(labels), names.dimension), np.float32)
        weights[np.searchsorted(labels, names.layout.labels)] = normalize(sum_classes(names))
    return Support(
        labels,
        np.asarray(images.vectors(images.ids[rows]), np.float32),
        np.searchsorted(labels, images.labels[rows]),
        rows,
        tuple(_identify(images, row) for row in order),
        weights,
        names is not None and names.encoder_id == images.encoder_id,
    )


def _identify(memory: Memory, row: int) -> str:
    entry = memory.entries[row]
    return entry.digest or entry.key


def to_tensors(xq: Queries, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves queries to a device: to compare with images, ``[nq, d]``, and with names, ``[nq, e]``."""
    by_image, by_name = (
        torch.from_numpy(np.ascontiguousarray(side(xq), np.float32)) for side in (for_images, for_names)
    )
    return by_image.to(device), by_name.to(device)
