"""Adapters as sources of candidates: searched like memories, and fitted without a query's own image in mining."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data_prep.adapters.fits import Model, find_obstacle, fit_model
from data_prep.adapters.hyperparameters import Hyperparameters
from data_prep.adapters.support import Support, make_support, to_tensors
from data_prep.core.rng import rng_for
from data_prep.embedding.pair import Queries
from data_prep.memory.columns import Results, best_first
from data_prep.memory.dense import DenseBlock
from data_prep.memory.exact import block_size, full_precision, search_device
from data_prep.memory.layout import ClassLayout, Exclusions
from data_prep.memory.memories import Memories
from data_prep.settings import check

log = logging.getLogger(__name__)

FOLDS = 5
"""Parts of a memory, each of which is searched by a fit to the others where queries are its own images."""

_MOST_QUERIES = 1024
_CHUNK = 2**14


@dataclass(frozen=True)
class AdapterSource:
    """An adapter as a source of candidates.

    Attributes:
        name: ``tip``, ``tip_f`` or ``linear_probe``.
        settings: Its hyperparameters.
        cache: Folder of caches, where fits are kept.
    """

    name: str
    settings: Hyperparameters
    cache: Path

    def search(self, memories: Memories, xq: Queries, k: int, exclude: Sequence[str] | None = None) -> Results:
        """Finds each query's k best classes; arguments and results as in ``Memories.search``."""
        scores, labels = np.full((len(xq), k), -np.inf, np.float32), np.full((len(xq), k), -1, np.int64)
        for block, scored in self._score(memories, xq, exclude):
            scores[block], labels[block] = best_first(*scored.best(k), k)
        return scores, labels

    def scores(
        self, memories: Memories, xq: Queries, labels: np.ndarray, exclude: Sequence[str] | None = None
    ) -> np.ndarray:
        """Scores given classes; arguments and results as in ``Memories.scores``."""
        scores = np.empty(labels.shape, np.float32)
        for block, scored in self._score(memories, xq, exclude):
            scores[block] = scored.of(labels[block])
        return np.where(scores > -np.inf, scores, np.nan)

    def prepare(self, memories: Memories, exclude: Sequence[str] | None = None) -> None:
        """Fits what a search needs, so that several processes find it in the cache."""
        support = self._support(memories)
        for fold in np.unique(self._folds(support, exclude)) if exclude else [-1]:
            self._fit(memories, support, int(fold), torch.device("cpu"))

    def _support(self, memories: Memories) -> Support:
        check(memories.images is not None, f"candidates from {self.name}: the memory has no images to fit it to")
        support = make_support(memories)
        obstacle = find_obstacle(self.name, support, memories.images.index.accelerator)
        check(obstacle is None, f"candidates from {self.name}: {obstacle}; choose another source")
        return support

    def _fit(self, memories: Memories, support: Support, fold: int, device: torch.device) -> Model:
        """Fits the adapter to all images but those of a fold; -1: to all. On the CPU it is kept with the memory."""

        def make() -> Model:
            fitted = support.subset(fold_rows(support) != fold) if fold >= 0 else support
            return fit_model(self.name, fitted, self.settings, self.cache, images.index.accelerator, device)

        images = memories.images
        return images.derive((self, support.identity, fold), make) if device.type == "cpu" else make()

    def _folds(self, support: Support, exclude: Sequence[str]) -> np.ndarray:
        """Returns the fold of the images that each query excludes; -1 for none, or where single images are hidden."""
        if self.name == "tip":
            return np.full(len(exclude), -1)
        fold_of = dict(zip(support.digests, fold_rows(support).tolist(), strict=True))
        return np.array([fold_of.get(digest, -1) for digest in exclude])

    def _score(
        self, memories: Memories, xq: Queries, exclude: Sequence[str] | None
    ) -> Iterator[tuple[slice, DenseBlock]]:
        """Yields the logits of all classes, block by block of queries."""
        support = self._support(memories)
        layout, entries = ClassLayout.make(support.labels), max(len(support), len(support.labels))
        device = search_device(len(xq), entries, support.xb.shape[1], memories.images.index.accelerator)
        folds = np.full(len(xq), -1) if exclude is None else self._folds(support, exclude)
        models = {fold: self._fit(memories, support, fold, device) for fold in np.unique(folds).tolist()}
        hidden = Exclusions.make(_rows_by_digest(support), exclude if self.name == "tip" else None)
        step = block_size(device, max(min(entries, _CHUNK), len(support.labels)), _MOST_QUERIES)
        for start in range(0, len(xq), step):
            block = slice(start, min(start + step, len(xq)))
            yield block, DenseBlock(layout, self._logits(models, xq[block], folds[block], hidden, start, device))

    def _logits(
        self,
        models: Mapping[int, Model],
        xq: Queries,
        folds: np.ndarray,
        hidden: Exclusions,
        start: int,
        device: torch.device,
    ) -> torch.Tensor:
        """Computes the logits of a block of queries, ``[b, c]``, each by the fit that lacks its fold."""
        by_image, by_name = to_tensors(xq, device)
        of_block = hidden.of_block(start, len(xq))
        pairs = (of_block.queries, of_block.rows) if len(of_block.rows) else None
        with torch.inference_mode(), full_precision(device):
            if len(models) == 1:
                (model,) = models.values()
                return model.logits(by_image, by_name, pairs).T.contiguous()
            logits: torch.Tensor | None = None
            for fold, model in models.items():
                rows = torch.from_numpy(np.flatnonzero(folds == fold)).to(device)
                if len(rows):
                    part = model.logits(by_image[rows], by_name[rows]).T
                    logits = part.new_empty(len(xq), part.shape[1]) if logits is None else logits
                    logits[rows] = part
            assert logits is not None
            return logits


def _rows_by_digest(support: Support) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, digest in enumerate(support.digests):
        rows.setdefault(digest, []).append(row)
    return rows


def fold_rows(support: Support) -> np.ndarray:
    """Splits the images into ``FOLDS`` parts, class by class; images with one digest are in one part.

    Returns:
        np.ndarray: The part of each image, shape ``[n]``.
    """
    fold_of: dict[str, int] = {}
    ends = np.cumsum(support.counts)
    for label, end, count in zip(support.labels.tolist(), ends.tolist(), support.counts.tolist(), strict=True):
        rng = rng_for("folds", label)
        digests = dict.fromkeys(support.digests[end - count : end])
        first, order = int(rng.integers(FOLDS)), rng.permutation(len(digests))
        for digest, position in zip(digests, order.tolist(), strict=True):
            fold_of.setdefault(digest, (first + position) % FOLDS)
    return np.array([fold_of[digest] for digest in support.digests])


def usable_adapters(wanted: Sequence[str], memories: Memories) -> list[str]:
    """Returns the adapters that can be fitted to memories, and logs why others are left out."""
    if memories.images is None:
        return []
    support, usable = make_support(memories), []
    for name in wanted:
        obstacle = find_obstacle(name, support, memories.images.index.accelerator)
        if obstacle is None:
            usable.append(name)
        else:
            log.warning("left out: %s, as %s", name, obstacle)
    return usable


def with_adapters(memories: Memories, chosen: Mapping[str, Mapping[str, float]], cache: Path) -> Memories:
    """Returns memories that adapters are sources of too, by their names, with the hyperparameters of each.

    Other sources that the memories have are kept, after the adapters.
    """
    sources = {name: AdapterSource(name, Hyperparameters.from_dict(values), cache) for name, values in chosen.items()}
    return replace(memories, sources={**sources, **memories.sources})
