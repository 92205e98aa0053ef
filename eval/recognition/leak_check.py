"""Leak check: evaluated images that are also in an evaluation's memories or in its run's training data."""

from __future__ import annotations

import logging
from pathlib import Path

from data_prep.core.records import Sample, SpecialLabel
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset
from data_prep.embedding.encoder import Encoder, embed_images
from data_prep.embedding.store import EmbeddingStore
from data_prep.leakage.contamination import drop_evaluated, drop_mined, read_mined
from data_prep.leakage.copies import Embedded, compute_leak_report
from data_prep.settings import Recipe
from eval.recognition.tasks import memory_samples

log = logging.getLogger(__name__)

MAX_PAIRS = 2_000_000_000
"""Comparisons in the search for near-duplicates; beyond that, only evenly spaced evaluated images are compared."""


def resolve_leaks(recipe: Recipe, dataset: Dataset, run: Path) -> Dataset:
    """Returns the data set without evaluated images that were mined, and without evaluated images in the memory.

    The memory's copies are left out too for a run that left them out of its training (``mining.evaluated_copies``).

    Raises:
        UserError: There are such images, byte for byte, and ``eval.leaks`` is ``error``; with ``allow`` all are kept.
    """
    split, policy = recipe.eval.split, recipe.eval.leaks
    if policy == "allow":
        return dataset
    dataset = drop_mined(run, dataset, split, policy)
    memory_policy = "skip" if recipe.mining.evaluated_copies == "skip" else policy
    return drop_evaluated(dataset, f"{split}_memory", memory_policy, "eval.leaks")


def find_leaks(recipe: Recipe, encoder: Encoder, dataset: Dataset, run: Path) -> dict:
    """Counts copies by content, and near-duplicates by embedding: see ``compute_leak_report``.

    Exact copies are searched in the memory's full pool and among all mined images. Near-duplicates are searched among
    images that are embedded anyway: those in an evaluated memory, and mined ones whose embedding the cache holds.
    """
    split, part = recipe.eval.split, f"{recipe.eval.split}_memory"
    queries, mined = dataset.parts[split], _mined_samples(run)
    others = {part: dataset.parts[part], "training": mined}
    if recipe.eval.near_duplicate_threshold > 1:
        return compute_leak_report(queries, others)
    cache = Path(recipe.cache)
    compared = {part: memory_samples(recipe, dataset), "training": _embedded_samples(encoder, mined, cache)}
    max_queries = MAX_PAIRS // max(1, *map(len, compared.values()))
    compared["queries"] = [queries[index] for index in evenly_spaced(len(queries), max_queries)]
    if len(compared["queries"]) < len(queries):
        log.info("leaks: near-duplicates of %d of %d images are searched", len(compared["queries"]), len(queries))
    embedded: dict[str, Embedded] = {
        name: (samples, embed_images(encoder, samples, recipe.retriever, cache))
        for name, samples in compared.items()
        if samples
    }
    return compute_leak_report(queries, others, embedded, recipe.eval.near_duplicate_threshold)


def _mined_samples(run: Path) -> list[Sample]:
    """Returns the images that a run was tuned on, of which only the content hash is known."""
    return [Sample(digest[:16], "", SpecialLabel.UNLABELLED, digest) for digest in sorted(read_mined(run))]


def count_unembedded(recipe: Recipe, encoder: Encoder, run: Path) -> int:
    """Counts the images that a run was tuned on and that ``find_leaks`` compares by bytes alone."""
    is_searched = recipe.eval.near_duplicate_threshold <= 1
    return len(_missing(encoder, _mined_samples(run), Path(recipe.cache))) if is_searched else 0


def _missing(encoder: Encoder, samples: list[Sample], cache: Path) -> set[int]:
    """Returns the indices of the samples whose embeddings are not in the cache."""
    if not samples:
        return set()
    encoder = encoder.image_encoder
    store = EmbeddingStore(cache / f"embeddings-{encoder.id}", encoder.metadata)
    return set(store.missing([sample.digest for sample in samples]))


def _embedded_samples(encoder: Encoder, samples: list[Sample], cache: Path) -> list[Sample]:
    """Returns the samples whose embeddings are in the cache."""
    missing = _missing(encoder, samples, cache)
    if missing:
        log.info("leaks: %d of %d mined images are not embedded here: compared by bytes", len(missing), len(samples))
    return [sample for index, sample in enumerate(samples) if index not in missing]
