"""A recipe's ranking examples, made stage by stage; every stage is kept in the cache and reused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.leakage.contamination import drop_evaluated
from data_prep.memory.memories import load_memories
from data_prep.mining.mine import mine
from data_prep.mining.mixing import Share, mix
from data_prep.mining.neighbours import split_halves
from data_prep.mining.shards import ShardedExamples
from data_prep.reading.dataset import PARTS
from data_prep.settings import DataArgs, Recipe

log = logging.getLogger(__name__)


def _read(args: DataArgs, cache: Path) -> Dataset:
    """Reads what is mined, and beside it the evaluated parts, which it must not share images with."""
    # armory's test split is apart by construction, and drawing it takes longest.
    drawn = args.name == "armory"
    return read_dataset(args, cache, ("train", "val_memory", "val") if drawn else PARTS)


def _mine_train(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> Path:
    """Mines the training images against each other, as ``mining.neighbours`` says."""
    cache, mining = Path(recipe.cache), recipe.mining
    dataset = drop_evaluated(dataset, mining.evaluated_copies)
    queries = dataset
    if mining.neighbours == "self":
        log.warning(
            "mining: neighbours=self lets each image find itself, so the examples leak their answers; this is for "
            "comparison with the released data alone"
        )
    if mining.neighbours == "disjoint":
        memory, asking = split_halves(dataset.parts["train"], mining.seed)
        dataset = replace(dataset, parts=dataset.parts | {"train": memory})
        queries = replace(dataset, parts=dataset.parts | {"train": asking})
    memories = load_memories(recipe, encoder, dataset, "train", None, 0)
    leave_out = mining.neighbours != "self"
    processes = recipe.trainer.devices
    return mine(encoder, queries, "train", memories, leave_out, recipe.retriever, mining, cache, processes)


def _mine_val(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> Path:
    """Mines validation images against a memory like those of the evaluation: the first shots and seed of it.

    Validation needs an answer to every example, so one without is never kept. An example is a single list.
    """
    mining = replace(recipe.mining, construction="top_k", candidate_unit="class", images="raw")
    if mining.ground_truth == "keep_without" and not mining.none_of_these:
        mining = replace(mining, ground_truth="only_if_retrieved")
    shots, seed = recipe.eval.shots[0], recipe.eval.seeds[0]
    held = load_memories(recipe, encoder, dataset, "val_memory", shots, seed)
    return mine(
        encoder, dataset, "val", held, False, recipe.retriever, mining, Path(recipe.cache),
        recipe.trainer.devices,
    )  # fmt: skip


def build(recipe: Recipe) -> tuple[Path, Path]:
    """Makes what is missing of the ranking examples.

    Returns:
        tuple[Path, Path]: Shard folders of ``train`` and of ``val``.
    """
    cache = Path(recipe.cache)
    encoder = load_encoder(recipe.retriever, recipe.trainer)  # first: a model that can't be had is known in seconds
    log.info("encoder: %s", encoder.id)
    dataset = _read(recipe.data, cache)
    if recipe.mining.shards:
        remedy = "mining.shards is not made again by itself: copy, import or mine it once more"
        train = ShardedExamples(Path(recipe.mining.shards), remedy).folder
    else:
        shares = [Share(_mine_train(recipe, encoder, dataset), recipe.mining.weight)]
        for other in recipe.mining.mix:
            mined = _mine_train(recipe, encoder, _read(other.data, cache))
            shares.append(Share(mined, other.weight))
        train = mix(shares, recipe.mining, cache)
    return train, _mine_val(recipe, encoder, dataset)
