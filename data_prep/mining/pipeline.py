"""Builds a recipe's ranking examples stage by stage; every stage is cached and reused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.adapters.choosing import choose_for_memories
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import Encoder, embed_queries, load_encoder
from data_prep.leakage.contamination import drop_evaluated
from data_prep.memory.memories import load_memories
from data_prep.mining.mine import CandidatePool, mine
from data_prep.mining.mixing import Share, mix
from data_prep.mining.neighbours import split_halves
from data_prep.mining.shards import ShardedExamples
from data_prep.reading.dataset import PARTS
from data_prep.settings import ADAPTERS, DataArgs, Recipe, check

log = logging.getLogger(__name__)


def _read_parts(args: DataArgs, cache: Path) -> Dataset:
    """Reads the parts that are mined and the evaluated parts, which must not share images with them."""
    # armory's test split shares no image by construction, and rendering it takes longest.
    rendered = args.name == "armory"
    return read_dataset(args, cache, ("train", "val_memory", "val") if rendered else PARTS)


def _mine_train(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> Path:
    """Mines the training images against each other, in the way that ``mining.neighbours`` sets."""
    cache, mining = Path(recipe.cache), recipe.mining
    dataset = drop_evaluated(dataset, "train", mining.evaluated_copies, "mining.evaluated_copies")
    queries = dataset
    if mining.neighbours == "self":
        log.warning(
            "mining: neighbours=self lets each image find itself, so the examples leak their answers; use this only "
            "for comparison with the released data"
        )
    if mining.neighbours == "disjoint":
        memory, query_samples = split_halves(dataset.parts["train"], mining.seed)
        dataset = replace(dataset, parts=dataset.parts | {"train": memory})
        queries = replace(dataset, parts=dataset.parts | {"train": query_samples})
    memories = load_memories(recipe, encoder, dataset, "train", None, 0)
    adapters = _choose_adapters(recipe, encoder, dataset, None)
    pool = CandidatePool(memories, mining.neighbours != "self", adapters)
    queries = _for_prompts(recipe, queries)
    return mine(encoder, queries, "train", pool, recipe.retriever, mining, cache, recipe.trainer.devices)


def _for_prompts(recipe: Recipe, dataset: Dataset) -> Dataset:
    """Returns the data set without its descriptions where prompts show names alone."""
    return dataset if recipe.ranker.descriptions else replace(dataset, descriptions={})


def _mine_val(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> Path:
    """Mines the validation images against a memory like those of the evaluation, with its first shots and seed.

    Without shots it is the full training set, if that is evaluated, or names alone.

    Validation needs the right answer of every example, so an example without one is never kept. Each image gives at
    most one example per source.
    """
    args = recipe.eval
    shots = args.shots[0] if args.shots else None if args.full_train_memory else 0
    if shots == 0:
        check(encoder.reads_texts, f"eval.shots=[]: {encoder.origin} embeds images alone; give eval.shots=[4]")
        recipe = replace(recipe, mining=replace(recipe.mining, sources=["name"]))
    mining = replace(recipe.mining, construction="top_k", candidate_unit="class", images="raw")
    if mining.ground_truth == "keep_without" and not mining.none_of_these:
        mining = replace(mining, ground_truth="only_if_retrieved")
    if recipe.mining.evaluated_copies == "skip":
        dataset = drop_evaluated(dataset, "val_memory", "skip", "mining.evaluated_copies")
    memories = load_memories(recipe, encoder, dataset, "val_memory", shots, args.seeds[0])
    pool = CandidatePool(memories, False, _choose_adapters(recipe, encoder, dataset, shots))
    queries, cache = _for_prompts(recipe, dataset), Path(recipe.cache)
    return mine(encoder, queries, "val", pool, recipe.retriever, mining, cache, recipe.trainer.devices)


def _choose_adapters(
    recipe: Recipe, encoder: Encoder, dataset: Dataset, shots: int | None
) -> dict[str, dict[str, float]]:
    """Chooses the hyperparameters of the adapters among the sources, on validation images.

    Args:
        recipe: All settings.
        encoder: Embeds images and names.
        dataset: Has the validation images, and the memory pool of their classes.
        shots: Images per class in the memory; None for all.
    """
    names = [source for source in recipe.mining.sources if source in ADAPTERS]
    if not names:
        return {}
    memories = load_memories(recipe, encoder, dataset, "val_memory", shots, recipe.eval.seeds[0])
    all_samples, cache = dataset.parts["val"], Path(recipe.cache)
    samples = [all_samples[i] for i in evenly_spaced(len(all_samples), recipe.eval.fit_images or len(all_samples))]
    xq, truths = embed_queries(encoder, samples, recipe.retriever, cache), np.array([s.label for s in samples])
    return choose_for_memories(names, [memories], xq, truths, cache, recipe.trainer.accelerator)


def _usable_sources(recipe: Recipe, encoder: Encoder) -> list[str]:
    """Returns the sources of candidates that the encoder has: one that embeds images alone has no names."""
    sources = recipe.mining.sources
    usable = [source for source in sources if encoder.reads_texts or source in ("image", "linear_probe")]
    check(bool(usable), f"mining.sources={sources}: {encoder.origin} embeds images alone; set [image]")
    if len(usable) < len(sources):
        left_out = ", ".join(source for source in sources if source not in usable)
        log.warning("mining: left out: candidates from %s, as %s embeds images alone", left_out, encoder.origin)
    return usable


def build(recipe: Recipe) -> tuple[Path, Path]:
    """Builds the ranking examples that are not in the cache.

    Returns:
        tuple[Path, Path]: Shard folders of ``train`` and of ``val``.
    """
    cache = Path(recipe.cache)
    # The encoder is loaded first, so that a model that cannot be loaded is reported within seconds.
    encoder = load_encoder(recipe.retriever, recipe.trainer)
    log.info("encoder: %s", encoder.id)
    recipe = replace(recipe, mining=replace(recipe.mining, sources=_usable_sources(recipe, encoder)))
    dataset = _read_parts(recipe.data, cache)
    if recipe.mining.shards:
        remedy = "mining.shards is not made again by itself: copy, import or mine it once more"
        train = ShardedExamples(Path(recipe.mining.shards), remedy).folder
    else:
        shares = [Share(_mine_train(recipe, encoder, dataset), recipe.mining.weight)]
        for other in recipe.mining.mix:
            mined = _mine_train(recipe, encoder, _read_parts(other.data, cache))
            shares.append(Share(mined, other.weight))
        train = mix(shares, recipe.mining, cache)
    return train, _mine_val(recipe, encoder, dataset)
