"""Few-shot and zero-shot recognition tasks: the candidates that the retriever proposes for each memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data_prep.core.records import Candidate
from data_prep.datasets import Dataset
from data_prep.embedding.encoder import Encoder, embed_images
from data_prep.memory.memories import load_memories
from data_prep.memory.memory import Memory
from data_prep.settings import Recipe


@dataclass(frozen=True)
class EvalTask:
    """One memory to recognise with, and what the retriever proposes from it.

    Attributes:
        task: ``few_shot``; ``zero_shot``, names alone; ``whole_set``, every training image; or ``unknown``, a memory
            that lacks some classes.
        shots: Images per class; 0 where they are not sampled.
        seed: Seed of the sampled images; 0 where there are none.
        candidates: The ranker's candidates per image, in retriever order.
        retrieved: Labels per image, best first, by retriever method.
        examples: An image file for each candidate, per image; empty where none are shown.
        held_out: Labels that the memory lacks.
    """

    task: str
    shots: int
    seed: int
    candidates: list[tuple[Candidate, ...]]
    retrieved: dict[str, list[list[int]]]
    examples: list[tuple[str, ...]] = field(default_factory=list)
    held_out: frozenset[int] = frozenset()

    @property
    def kind(self) -> str:
        """Key of what is fitted together: all seeds of a task and number of shots."""
        return f"{self.task}-{self.shots}"


def _to_labels(rows: Sequence[tuple[Candidate, ...]]) -> list[list[int]]:
    return [[candidate.label for candidate in row] for row in rows]


def nearest_exemplar(memory: Memory, paths: dict[str, str], query: np.ndarray, label: int) -> str | None:
    """Finds the image of a class that is most similar to a query; None for a class without images.

    Args:
        memory: Memory of images.
        paths: Image files by content digest.
        query: Unit vector of shape ``[d]``.
        label: The class.
    """
    ids = memory.ids_of(label)
    if not len(ids):
        return None
    best = ids[np.argmax(memory.vectors(ids) @ query)]
    return paths[memory.entries[memory.rows(best)].digest]


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


def make_tasks(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> list[EvalTask]:
    """Retrieves the candidates of every memory that the recipe evaluates with."""
    split, args = recipe.eval.split, recipe.eval
    xq = embed_images(encoder, dataset.parts[split], recipe.retriever, Path(recipe.cache))
    memories = [("zero_shot", 0, 0)] if args.zero_shot else []
    memories += [("few_shot", shots, seed) for shots in args.shots for seed in args.seeds]
    memories += [("whole_set", 0, 0)] if args.full_train_memory else []
    tasks = [_make_task(recipe, encoder, dataset, xq, *memory) for memory in memories]
    if args.open_set_fraction:
        part = f"{split}_memory"
        held_out = draw_held_out(dataset.labels(part), args.open_set_fraction, recipe.seed)
        remaining = [sample for sample in dataset.parts[part] if sample.label not in held_out]
        reduced = replace(dataset, parts=dataset.parts | {part: remaining})
        shots, seed = (args.shots[0], args.seeds[0]) if args.shots else (0, 0)
        task = _make_task(recipe, encoder, reduced, xq, "few_shot" if shots else "zero_shot", shots, seed)
        tasks.append(replace(task, task="unknown", held_out=held_out))
    return tasks


def _make_task(
    recipe: Recipe, encoder: Encoder, dataset: Dataset, xq: np.ndarray, task: str, shots: int, seed: int
) -> EvalTask:
    args, part = recipe.eval, f"{recipe.eval.split}_memory"
    memories = load_memories(recipe, encoder, dataset, part, None if task == "whole_set" else shots, seed)
    sources = {"clip_zero_shot": "name"}
    if memories.images:
        sources |= {"clip_knn": "image", "clip_fused": "fused"}
    depth = max(args.k, 5)  # enough for top-5
    by_source = {
        source: memories.candidates(source, xq, depth, recipe.retriever, dataset.names) for source in sources.values()
    }
    candidates = [row[: args.k] for row in by_source[args.candidates if memories.images else "name"]]
    examples = []
    if args.show_exemplars and memories.images:
        paths = {sample.digest: sample.path for sample in dataset.parts[part]}
        examples = find_exemplars(memories.images, paths, xq, candidates)
    retrieved = {method: _to_labels(by_source[source]) for method, source in sources.items()}
    return EvalTask(task, shots, seed, candidates, retrieved, examples)
