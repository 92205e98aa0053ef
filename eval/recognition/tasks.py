"""Few-shot and zero-shot recognition tasks: the candidates that the retriever proposes for each memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data_prep.adapters.sources import usable_adapters, with_adapters
from data_prep.core.records import Candidate, Sample
from data_prep.datasets import Dataset
from data_prep.datasets.shots import part_shots
from data_prep.embedding.encoder import Encoder, embed_queries
from data_prep.embedding.pair import Queries, for_images
from data_prep.memory.columns import label_rows
from data_prep.memory.memories import Memories, load_memories, to_candidates
from data_prep.memory.memory import Memory
from data_prep.settings import EvalArgs, Recipe, RetrieverArgs, check
from data_prep.settings.modes import CLIP_LORA
from eval.calibration.choice import Choice
from eval.calibration.fusion import mark_new
from eval.recognition.clip_lora import add_clip_lora

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalTask:
    """One memory to recognise with, and what the retriever proposes from it.

    Attributes:
        task: ``few_shot``; ``zero_shot``, names alone; ``whole_set``, every training image; ``unknown``, a memory that
            lacks some classes; or ``choice``, the true class and similar ones.
        shots: Images per class; 0 where they are not sampled.
        seed: Seed of the sampled images; 0 where there are none.
        kind: Key of what is chosen and fitted together: all seeds of a task and number of shots.
        permutations: Number of orders in which candidates are shown.
        candidates: The ranker's candidates per image, in retriever order.
        similarities: Of the candidates to the class's images and to its name, shape ``[n, k, 2]``, and a third column
            with the adapter's scores where candidates come from one; NaN where there are none.
        retrieved: Labels per image, best first, by retriever method.
        examples: An image file for each candidate, per image; empty where none are shown.
        held_out: Labels that the memory lacks.
    """

    task: str
    shots: int
    seed: int
    kind: str
    permutations: int
    candidates: list[tuple[Candidate, ...]]
    similarities: np.ndarray
    retrieved: dict[str, list[list[int]]]
    examples: list[tuple[str, ...]] = field(default_factory=list)
    held_out: frozenset[int] = frozenset()


def nearest_exemplar(memory: Memory, paths: dict[str, str], query: np.ndarray, label: int) -> str | None:
    """Finds the image of a class that is most similar to a query; None for a class without images.

    Args:
        memory: Memory of images.
        paths: Image files by content digest; None is returned for an image that has none.
        query: Unit vector of shape ``[d]``.
        label: The class.
    """
    ids = memory.ids_of(label)
    if not len(ids):
        return None
    best = ids[np.argmax(memory.vectors(ids) @ query)]
    return paths.get(memory.entries[memory.rows(best)].digest)


def find_exemplars(
    memory: Memory, paths: dict[str, str], xq: np.ndarray, candidates: Sequence[tuple[Candidate, ...]]
) -> list[tuple[str, ...]]:
    """Finds the image of each candidate that is most similar to the query.

    Args:
        memory: Memory of images.
        paths: Image files by content digest.
        xq: Unit queries of shape ``[nq, d]``.
        candidates: Candidates per query.

    Returns:
        list[tuple[str, ...]]: Image files per query, one per candidate; empty for a query with a candidate that has no
        image in the memory.
    """
    exemplars = [
        tuple(nearest_exemplar(memory, paths, query, candidate.label) for candidate in row)
        for query, row in zip(xq, candidates, strict=True)
    ]
    return [row if all(row) else () for row in exemplars]


def draw_held_out(labels: Sequence[int], fraction: float, seed: int) -> frozenset[int]:
    """Samples labels to hold out as unknown classes: seeded, at least one, and not all."""
    count = min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    return frozenset(np.random.default_rng(seed).permutation(labels)[:count].tolist())


def list_memories(args: EvalArgs) -> list[tuple[str, int, int]]:
    """Returns task, shots and seed of every memory that an evaluation uses."""
    memories = [("zero_shot", 0, 0)] if args.zero_shot else []
    memories += [("few_shot", shots, seed) for shots in args.shots for seed in args.seeds]
    return memories + ([("whole_set", 0, 0)] if args.full_train_memory else [])


def memory_samples(recipe: Recipe, dataset: Dataset) -> list[Sample]:
    """Returns the images that are in any memory of the evaluated split, each once."""
    args, part = recipe.eval, f"{recipe.eval.split}_memory"
    if args.full_train_memory:
        return dataset.parts[part]
    memories = [
        part_shots(dataset, part, shots, seed, recipe.data.draw, Path(recipe.cache))
        for shots in args.shots
        for seed in args.seeds
    ]
    return list({sample.key: sample for memory in memories for sample in memory}.values())


def embed_split(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> Queries:
    """Embeds the evaluated images, and in the same pass those of all memories.

    Draws of shots overlap, and each memory's missing images alone would make a short pass.

    Returns:
        Queries: Unit vectors of the evaluated images.
    """
    samples = dataset.parts[recipe.eval.split]
    everything = [*samples, *memory_samples(recipe, dataset)]
    return embed_queries(encoder, everything, recipe.retriever, Path(recipe.cache))[: len(samples)]


def fit_to_encoder(recipe: Recipe, encoder: Encoder) -> Recipe:
    """Returns the settings with what the encoder can do: one that embeds images alone has no memory of names.

    Raises:
        UserError: Nothing is left to evaluate, or candidates are to come from names.
    """
    args = recipe.eval
    if encoder.reads_texts:
        return recipe
    reason = f"{encoder.origin} embeds images alone"
    usable = args.candidates in ("auto", "image", "linear_probe")
    check(usable, f"eval.candidates={args.candidates}: {reason}; set eval.candidates=image or linear_probe")
    check(bool(args.shots) or args.full_train_memory, f"eval.shots=[]: {reason}, so that zero-shot needs another")
    rows = ["clip_zero_shot", "clip_fused", *(adapter for adapter in args.adapters if adapter != "linear_probe")]
    rows += ["the zero-shot memory"] * args.zero_shot + ["choice"] * (args.choices > 0)
    log.warning("left out: %s, as %s", ", ".join(rows), reason)
    adapters = [adapter for adapter in args.adapters if adapter == "linear_probe"]
    return replace(recipe, eval=replace(args, zero_shot=False, choices=0, adapters=adapters))


def make_kind(task: str, shots: int) -> str:
    """Returns the key of what is chosen and fitted together: all seeds of a task and number of shots."""
    return f"{task}-{shots}"


def make_tasks(recipe: Recipe, encoder: Encoder, dataset: Dataset, choices: Mapping[str, Choice]) -> list[EvalTask]:
    """Retrieves the candidates of every memory that the recipe evaluates with.

    Args:
        recipe: Settings.
        encoder: Embeds images and names.
        dataset: With the evaluated split and its memory pool.
        choices: Source and number of candidates by kind of memory.
    """
    xq = embed_split(recipe, encoder, dataset)
    return [
        _make_task(recipe, load_task_memories(recipe, encoder, dataset, *memory), dataset, xq, memory, choices)
        for memory in list_memories(recipe.eval)
    ]


def make_open_set_task(recipe: Recipe, encoder: Encoder, dataset: Dataset, choices: Mapping[str, Choice]) -> EvalTask:
    """Makes the task of a memory that lacks some classes, with the evaluation's first shots and seed.

    Args:
        recipe: Settings.
        encoder: Embeds images and names.
        dataset: With the evaluated split and its memory pool.
        choices: Source and number of candidates by kind of memory.
    """
    args, part = recipe.eval, f"{recipe.eval.split}_memory"
    xq = embed_queries(encoder, dataset.parts[args.split], recipe.retriever, Path(recipe.cache))
    held_out = draw_held_out(dataset.labels(part), args.open_set_fraction, recipe.seed)
    remaining = [sample for sample in dataset.parts[part] if sample.label not in held_out]
    reduced = replace(dataset, parts=dataset.parts | {part: remaining})
    memory = ("few_shot", args.shots[0], args.seeds[0]) if args.shots else list_memories(args)[0]
    memories = load_task_memories(recipe, encoder, reduced, *memory)
    return replace(_make_task(recipe, memories, reduced, xq, memory, choices), task="unknown", held_out=held_out)


def load_task_memories(
    recipe: Recipe, encoder: Encoder, dataset: Dataset, task: str, shots: int, seed: int
) -> Memories:
    """Builds the memories of a task on the evaluated split, or loads them from the cache.

    Those of a few-shot task have CLIP-LoRA as a source where ``eval.clip_lora`` names a run.
    """
    sampled = None if task == "whole_set" else shots
    memories = load_memories(recipe, encoder, dataset, f"{recipe.eval.split}_memory", sampled, seed)
    return add_clip_lora(memories, recipe, encoder, dataset, shots, seed) if task == "few_shot" else memories


def set_source(args: EvalArgs, task: str) -> str:
    """Returns the source of candidates that settings name for a task; ``auto`` where they leave it open.

    CLIP-LoRA has encoders for few-shot tasks alone.
    """
    if task == "zero_shot":
        return "name"
    return "fused" if args.candidates == CLIP_LORA and task != "few_shot" else args.candidates


def retriever_methods(memories: Memories) -> dict[str, str]:
    """Returns the source of each of the retriever's rows with these memories."""
    methods = {"clip_zero_shot": "name"} if memories.names else {}
    methods |= {"clip_knn": "image"} if memories.images else {}
    methods |= {"clip_fused": "fused"} if memories.images and memories.names else {}
    return methods | {source: source for source in memories.sources}


def _make_task(
    recipe: Recipe,
    memories: Memories,
    dataset: Dataset,
    xq: Queries,
    memory: tuple[str, int, int],
    choices: Mapping[str, Choice],
) -> EvalTask:
    args, kind = recipe.retriever, make_kind(*memory[:2])
    choice = choices[kind]
    usable = usable_adapters([*choice.adapters], memories)  # this memory may be larger than the validation classes'
    adapters = {name: values for name, values in choice.adapters.items() if name in (*usable, choice.source)}
    memories = with_adapters(memories, adapters, Path(recipe.cache))
    sources = retriever_methods(memories)
    depth = max(choice.k, 5)  # enough for top-5
    by_source = {source: memories.search(source, xq, depth, args) for source in sources.values()}
    scores, labels = (table[:, : choice.k] for table in by_source[choice.source])
    candidates = to_candidates(scores, labels, dataset.names)
    examples = []
    if recipe.eval.show_exemplars and memories.images:
        paths = {sample.digest: sample.path for sample in dataset.parts[f"{recipe.eval.split}_memory"]}
        examples = find_exemplars(memories.images, paths, for_images(xq), candidates)
    retrieved = {method: label_rows(by_source[source][1]) for method, source in sources.items()}
    similarities = find_similarities(memories, xq, labels, args, choice.source)
    similarities = mark_new(similarities, candidates, choice.tuned_classes)
    return EvalTask(*memory, kind, choice.permutations, candidates, similarities, retrieved, examples)


def find_similarities(
    memories: Memories, xq: Queries, labels: np.ndarray, args: RetrieverArgs, source: str
) -> np.ndarray:
    """Computes the similarities of queries to candidates' images and names, shape ``[n, k, 2]``; NaN where missing.

    Where the candidates' source has scores of its own, as an adapter has, they are a third column. All are rounded to
    six decimals, as predictions store them.
    """
    columns = [
        memories.scores(side, xq, labels, args) if memory else np.full(labels.shape, np.nan)
        for side, memory in (("image", memories.images), ("name", memories.names))
    ]
    columns += [memories.scores(source, xq, labels, args)] if source in memories.sources else []
    return np.stack(columns, axis=-1).astype(float).round(6)
