"""What of an evaluation's memories and of its run's training stands among the evaluated images."""

from __future__ import annotations

import logging
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset
from data_prep.datasets.shots import load_shots
from data_prep.embedding.encoder import Encoder, embed_images
from data_prep.embedding.store import EmbeddingStore
from data_prep.leakage.contamination import check_not_mined, read_mined
from data_prep.leakage.copies import UNLABELLED, Embedded, exact_copies, leak_report
from data_prep.settings import Recipe

log = logging.getLogger(__name__)

MOST_PAIRS = 2_000_000_000
"""Comparisons in the search for near-duplicates; beyond, only evenly spaced evaluated images are compared."""


def refuse_copies(recipe: Recipe, dataset: Dataset, run: Path) -> None:
    """Refuses evaluated images that are mined or stand in the memory's pool, unless ``eval.leaks`` is ``allow``.

    Raises:
        UserError: There are such images, byte for byte.
    """
    split, part = recipe.eval.split, f"{recipe.eval.split}_memory"
    if recipe.eval.leaks == "allow":
        return
    check_not_mined(run, dataset.parts[split], split)
    copies = exact_copies(dataset.parts[split], dataset.parts[part], part)
    if copies:
        paths = {sample.key: sample.path for sample in (*dataset.parts[part], *dataset.parts[split])}
        raise UserError(
            f"{dataset.name}: {len({copy.query for copy in copies})} of {len(dataset.parts[split])} images of {split} "
            f"stand in {part} too, byte for byte; the first is {paths[copies[0].query]}, there {paths[copies[0].key]}. "
            "Mend the splits, or set eval.leaks=allow to have them counted"
        )


def find_leaks(recipe: Recipe, encoder: Encoder, dataset: Dataset, run: Path) -> dict:
    """Counts copies by content, and near-duplicates by embedding: see ``leak_report``.

    Exact copies are sought in the memory's whole pool and among all mined images. Near-duplicates are sought among
    images that are embedded anyway: those in an evaluated memory, and mined ones whose embedding the cache holds.
    """
    split, part = recipe.eval.split, f"{recipe.eval.split}_memory"
    queries, mined = dataset.parts[split], _mined(run)
    others = {part: dataset.parts[part], "training": mined}
    if recipe.eval.near_duplicate_threshold > 1:
        return leak_report(queries, others)
    cache = Path(recipe.cache)
    compared = {part: _in_memories(recipe, dataset, part), "training": _known(encoder, mined, cache)}
    most = MOST_PAIRS // max(1, *map(len, compared.values()))
    compared["queries"] = [queries[number] for number in evenly_spaced(len(queries), most)]
    if len(compared["queries"]) < len(queries):
        log.info("leaks: near-duplicates are sought of %d of %d images", len(compared["queries"]), len(queries))
    embedded: dict[str, Embedded] = {
        name: (samples, embed_images(encoder, samples, recipe.retriever, cache))
        for name, samples in compared.items()
        if samples
    }
    return leak_report(queries, others, embedded, recipe.eval.near_duplicate_threshold)


def _mined(run: Path) -> list[Sample]:
    """The images that a run was tuned on, of which the content is known."""
    return [Sample(digest[:16], "", UNLABELLED, digest) for digest in sorted(read_mined(run))]


def _in_memories(recipe: Recipe, dataset: Dataset, part: str) -> list[Sample]:
    """The images that stand in any evaluated memory."""
    pool, args = dataset.parts[part], recipe.eval
    if args.full_train_memory:
        return pool
    draws = [(shots, seed) for shots in args.shots for seed in args.seeds]
    drawn = [load_shots(pool, *draw, recipe.data.draw, Path(recipe.cache)) for draw in draws]
    return list({sample.key: sample for own in drawn for sample in own}.values())


def _known(encoder: Encoder, samples: list[Sample], cache: Path) -> list[Sample]:
    """Those of some images that the cache holds embeddings of."""
    if not samples:
        return []
    store = EmbeddingStore(cache / f"embeddings-{encoder.id}", encoder.metadata)
    missing = set(store.missing([sample.digest for sample in samples]))
    if missing:
        log.info("leaks: %d of %d mined images are not embedded here: compared by bytes", len(missing), len(samples))
    return [sample for number, sample in enumerate(samples) if number not in missing]
