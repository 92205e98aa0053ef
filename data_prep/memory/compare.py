"""Compares encoders on validation images: recall@k by names, by images and by both, with dimension and speed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.recall import recall_at, true_ranks
from data_prep.core.records import Sample
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import Encoder, embed_queries, load_encoder
from data_prep.embedding.pair import Queries, for_images, for_names
from data_prep.embedding.store import EmbeddingStore
from data_prep.memory.columns import label_rows
from data_prep.memory.memories import load_memories
from data_prep.settings import Recipe, RetrieverArgs, check
from data_prep.settings.loading import load_recipe

log = logging.getLogger(__name__)

CUTOFFS = (1, 5, 10)
_COLUMNS = ("encoder", "dimension", "images/s", "candidates", *(f"recall@{k}" for k in CUTOFFS))


@dataclass(frozen=True)
class Row:
    """Recall of one encoder with one source of candidates.

    Attributes:
        encoder: As it was given.
        dimension: Of its vectors; of a pair, that of each source.
        speed: Images embedded a second, reading and decoding included; None where all were in the cache.
        candidates: Where they come from, in words.
        recall: Shares of images, 0 to 1, by cutoff.
    """

    encoder: str
    dimension: str
    speed: float | None
    candidates: str
    recall: dict[int, float]


def parse_model(text: str, args: RetrieverArgs) -> RetrieverArgs:
    """Returns the settings of an encoder that is given in a word.

    Args:
        text: ``MODEL``, ``MODEL,PRETRAINED`` or ``MODEL,PRETRAINED,TAG``; of a pair, that of images, ``+`` and that of
            names.
        args: The other settings.

    Raises:
        UserError: A model is missing, or there are too many parts.
    """
    sides = text.split("+")
    parts = [side.split(",") for side in sides]
    is_right = len(sides) <= 2 and all(side[0] and len(side) <= 3 for side in parts)
    check(is_right, f"{text}: give MODEL, MODEL,PRETRAINED or MODEL,PRETRAINED,TAG, and of a pair IMAGES+NAMES")
    given: dict[str, str | None] = dict.fromkeys(("name_model", "name_pretrained", "name_tag"))
    for prefix, side in zip(("", "name_"), parts, strict=False):
        values = [part or None for part in side] + [None] * 2
        given |= {f"{prefix}{key}": value for key, value in zip(("model", "pretrained", "tag"), values, strict=False)}
    if not any(side[0].startswith("st:") for side in parts):
        given |= {"image_instruction": None, "text_instruction": None}
    return replace(args, **given)


def compare_encoders(models: Sequence[str], recipe: Recipe) -> Iterator[Row]:
    """Measures encoders one after another.

    Args:
        models: As ``parse_model`` takes them.
        recipe: The data set; its shots and seeds (``eval.shots``, ``eval.seeds``), over which recall is averaged; and
            the retriever's other settings.

    Yields:
        Row: By encoder and source.

    Raises:
        UserError: A model cannot be loaded, or there are no validation images.
    """
    settings = {model: parse_model(model, recipe.retriever) for model in models}  # wrong ones are reported at once
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("val_memory", "val"))
    check(bool(dataset.parts["val"]), f"{dataset.name}: there are no validation images")
    for model, args in settings.items():
        yield from _measure(model, replace(recipe, retriever=args), dataset)


def _measure(model: str, recipe: Recipe, dataset: Dataset) -> Iterator[Row]:
    encoder, samples = load_encoder(recipe.retriever, recipe.trainer), dataset.parts["val"]
    xq, speed = _embed_timed(encoder, samples, recipe)
    by_image, by_name = for_images(xq).shape[1], for_names(xq).shape[1]
    dimensions = {"image": str(by_image), "name": str(by_name)}
    dimensions["fused"] = str(by_image) if by_image == by_name else f"{by_image}, {by_name}"
    recalls = _recall_of_sources(encoder, xq, recipe, dataset)
    for (source, shots), recall in recalls.items():
        words = {"name": "names", "image": f"images, {shots} shots", "fused": f"both, {shots} shots"}[source]
        yield Row(model, dimensions[source], speed, words, recall)
    if not encoder.reads_texts:
        log.info("%s: no row by names, as it embeds images alone", model)


def _embed_timed(encoder: Encoder, samples: Sequence[Sample], recipe: Recipe) -> tuple[Queries, float | None]:
    """Embeds images, and returns the images embedded a second, by all encoders of a pair together."""
    cache, keys = Path(recipe.cache), [sample.digest for sample in samples]
    sides = {side.id: side for side in (encoder.image_encoder, encoder.name_encoder)}
    stores = [EmbeddingStore(cache / f"embeddings-{side.id}", side.metadata) for side in sides.values()]
    missing = [len(store.missing(keys)) for store in stores]
    start = time.perf_counter()
    xq = embed_queries(encoder, samples, recipe.retriever, cache)
    seconds = time.perf_counter() - start
    return xq, max(missing) / seconds if any(missing) else None


def _recall_of_sources(
    encoder: Encoder, xq: Queries, recipe: Recipe, dataset: Dataset
) -> dict[tuple[str, int], dict[int, float]]:
    """Returns recall by cutoff, by source and number of shots (0 for names), averaged over seeds."""
    samples, depth = dataset.parts["val"], max(CUTOFFS)
    truths, exclude = [sample.label for sample in samples], [sample.digest for sample in samples]
    runs = [(0, 0)] if encoder.reads_texts else []
    runs += [(shots, seed) for shots in recipe.eval.shots for seed in recipe.eval.seeds]
    check(bool(runs), "eval.shots=[]: the encoder embeds images alone, and needs some")
    found: dict[tuple[str, int], list[dict[int, float]]] = {}
    for shots, seed in runs:
        memories = load_memories(recipe, encoder, dataset, "val_memory", shots, seed)
        for source in _sources(encoder, shots):
            labels = memories.search(source, xq, depth, recipe.retriever, None if source == "name" else exclude)[1]
            ranks = true_ranks(label_rows(labels), truths, depth)
            found.setdefault((source, shots), []).append({k: recall_at(ranks, k) for k in CUTOFFS})
    return {
        key: {k: float(np.mean([recall[k] for recall in recalls])) for k in CUTOFFS} for key, recalls in found.items()
    }


def _sources(encoder: Encoder, shots: int) -> tuple[str, ...]:
    if shots == 0:
        return ("name",)
    return ("image", "fused") if encoder.reads_texts else ("image",)


def format_rows(rows: Sequence[Row]) -> list[str]:
    """Returns a table's lines, with recall in per cent; an encoder is named in its first line."""
    table, previous = [_COLUMNS], ""
    for row in rows:
        speed = "cached" if row.speed is None else f"{row.speed:.1f}"
        head = (row.encoder, row.dimension, speed) if row.encoder != previous else ("", row.dimension, "")
        table.append((*head, row.candidates, *(f"{100 * row.recall[k]:.1f}" for k in CUTOFFS)))
        previous = row.encoder
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    is_text = [name in ("encoder", "candidates") for name in _COLUMNS]
    return [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(cells, widths, is_text, strict=True)
        ).rstrip()
        for cells in table
    ]


def main(arguments: Sequence[str]) -> None:
    """Runs ``compare``: models are the words that are no settings.

    Raises:
        UserError: No model is given, or one cannot be loaded.
    """
    models = [argument for argument in arguments if "=" not in argument]
    if not models:
        raise UserError("give the models to compare, such as nano-clip ViT-B-16-SigLIP2,webli")
    recipe = load_recipe([argument for argument in arguments if "=" in argument])
    rows = list(compare_encoders(list(dict.fromkeys(models)), recipe))
    for line in format_rows(rows):
        print(line)
