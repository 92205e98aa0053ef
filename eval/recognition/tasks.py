"""Few-shot and zero-shot recognition: what the retriever proposes for each memory."""

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
    """One memory to recognise with.

    Attributes:
        task: ``few_shot``; ``zero_shot``, names alone; ``whole_set``, every image; or ``unknown``, a memory that lacks
            some classes.
        shots: Images per class; 0 where they are not drawn.
        seed: Of the draw; 0 where there is none.
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
        """What is fitted together: all seeds of a task and number of shots."""
        return f"{self.task}-{self.shots}"


def _labels(found: Sequence[tuple[Candidate, ...]]) -> list[list[int]]:
    return [[candidate.label for candidate in row] for row in found]


def nearest_exemplar(memory: Memory, paths: dict[str, str], query: np.ndarray, label: int) -> str | None:
    """The image of a class that is most similar to a query, or None for a class without images.

    Args:
        memory: Of images.
        paths: Image files by content digest.
        query: Unit vector of shape ``[d]``.
        label: The class.
    """
    ids = memory.ids_of(label)
    if not len(ids):
        return None
    best = ids[np.argmax(memory.vectors(ids) @ query)]
    return paths[memory.entries[memory.rows(best)].digest]


def find_exemplars(memory: Memory, paths: dict[str, str], xq: np.ndarray, found: Sequence[tuple[Candidate, ...]]):
    """The image of each candidate that is most similar to the query.

    Args:
        memory: Of images.
        paths: Image files by content digest.
        xq: Unit queries of shape ``[nq, d]``.
        found: Candidates per query.

    Returns:
        list[tuple[str, ...]]: Image files per query, one a candidate; empty for a query with a candidate that has no
        image in the memory.
    """
    shown = [
        tuple(nearest_exemplar(memory, paths, query, candidate.label) for candidate in row)
        for query, row in zip(xq, found, strict=True)
    ]
    return [row if all(row) else () for row in shown]


def draw_held_out(labels: Sequence[int], share: float, seed: int) -> frozenset[int]:
    """A seeded draw of labels to play the unknown: at least one, and not all."""
    count = min(max(round(share * len(labels)), 1), len(labels) - 1)
    return frozenset(np.random.default_rng(seed).permutation(labels)[:count].tolist())


def make_tasks(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> list[EvalTask]:
    """Retrieves the candidates of every memory that the recipe evaluates with."""
    split, args = recipe.eval.split, recipe.eval
    queries = dataset.parts[split]
    xq = embed_images(encoder, queries, recipe.retriever, Path(recipe.cache))
    settings = [_setting(recipe, encoder, dataset, xq, "zero_shot", 0, 0)] if args.zero_shot else []
    for shots in args.shots:
        settings += [_setting(recipe, encoder, dataset, xq, "few_shot", shots, seed) for seed in args.seeds]
    if args.full_train_memory:
        settings.append(_setting(recipe, encoder, dataset, xq, "whole_set", 0, 0))
    if args.open_set_fraction:
        part = f"{split}_memory"
        held = draw_held_out(dataset.labels(part), args.open_set_fraction, recipe.seed)
        kept = [sample for sample in dataset.parts[part] if sample.label not in held]
        lacking = replace(dataset, parts=dataset.parts | {part: kept})
        shots, seed = (args.shots[0], args.seeds[0]) if args.shots else (0, 0)
        one = _setting(recipe, encoder, lacking, xq, "few_shot" if shots else "zero_shot", shots, seed)
        settings.append(replace(one, task="unknown", held_out=held))
    return settings


def _setting(
    recipe: Recipe, encoder: Encoder, dataset: Dataset, xq: np.ndarray, task: str, shots: int, seed: int
) -> EvalTask:
    args, part = recipe.eval, f"{recipe.eval.split}_memory"
    memories = load_memories(recipe, encoder, dataset, part, None if task == "whole_set" else shots, seed)
    sources = {"clip_zero_shot": "name"}
    if memories.images:
        sources |= {"clip_knn": "image", "clip_fused": "fused"}
    wide = max(args.k, 5)
    found = {
        source: memories.candidates(source, xq, wide, recipe.retriever, dataset.names) for source in sources.values()
    }
    candidates = [row[: args.k] for row in found[args.candidates if memories.images else "name"]]
    examples = []
    if args.show_exemplars and memories.images:
        paths = {sample.digest: sample.path for sample in dataset.parts[part]}
        examples = find_exemplars(memories.images, paths, xq, candidates)
    retrieved = {method: _labels(found[source]) for method, source in sources.items()}
    return EvalTask(task, shots, seed, candidates, retrieved, examples)
