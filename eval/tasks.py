"""Few-shot and zero-shot recognition: what the retriever proposes, and the rows of the table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.datasets import Dataset
from data_prep.encoder import Encoder, embed_images
from data_prep.memories import memories_of
from data_prep.records import Candidate, Ranking, Sample
from data_prep.settings import Recipe
from eval.metrics import hits_at

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """One memory to recognise with.

    Attributes:
        task: ``few_shot`` or ``zero_shot``.
        shots: Images per class; 0 in zero-shot.
        seed: Of the draw; 0 in zero-shot.
        candidates: The ranker's candidates per image, in retriever order.
        retrieved: Labels per image, best first, by retriever method.
    """

    task: str
    shots: int
    seed: int
    candidates: list[tuple[Candidate, ...]]
    retrieved: dict[str, list[list[int]]]


def _labels(found: Sequence[tuple[Candidate, ...]]) -> list[list[int]]:
    return [[candidate.label for candidate in row] for row in found]


def _warn_of_copies(queries: Sequence[Sample], memory: Sequence[Sample]) -> None:
    held = {sample.digest for sample in memory}
    copies = sum(sample.digest in held for sample in queries)
    if copies:
        log.warning("%d of %d evaluated images stand in the memory's pool byte for byte", copies, len(queries))


def settings_of(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> list[Setting]:
    """Retrieves the candidates of every memory that the recipe evaluates with."""
    split, args = recipe.eval.split, recipe.eval
    queries = dataset.parts[split]
    _warn_of_copies(queries, dataset.parts[f"{split}_memory"])
    xq = embed_images(encoder, queries, recipe.retriever, Path(recipe.cache))
    wide = max(args.k, 5)

    def found(memories, source: str) -> list[tuple[Candidate, ...]]:
        return memories.candidates(source, xq, wide, recipe.retriever, dataset.names)

    settings = []
    if args.zero_shot:
        named = found(memories_of(recipe, encoder, dataset, f"{split}_memory", 0, 0), "name")
        settings.append(
            Setting("zero_shot", 0, 0, [row[: args.k] for row in named], {"clip_zero_shot": _labels(named)})
        )
    for shots in args.shots:
        for seed in args.seeds:
            memories = memories_of(recipe, encoder, dataset, f"{split}_memory", shots, seed)
            by_source = {source: found(memories, source) for source in ("image", "name", "fused")}
            settings.append(
                Setting(
                    "few_shot",
                    shots,
                    seed,
                    [row[: args.k] for row in by_source[args.candidates]],
                    {
                        "clip_zero_shot": _labels(by_source["name"]),
                        "clip_knn": _labels(by_source["image"]),
                        "clip_fused": _labels(by_source["fused"]),
                    },
                )
            )
    return settings


def row_of(
    setting: Setting,
    dataset: str,
    method: str,
    ranked: Sequence[Sequence[int]],
    truths: Sequence[int],
    k: int,
    mode: str,
) -> dict:
    """One row of ``results.json``.

    Args:
        setting: Task, shots and seed.
        dataset: Its name.
        method: A method's name.
        ranked: Labels per image, best first.
        truths: True labels.
        k: Candidates.
        mode: The ranking mode; empty for a retriever's row.

    Returns:
        dict: Accuracies as shares, 0 to 1.
    """
    return {
        "task": setting.task,
        "dataset": dataset,
        "shots": setting.shots,
        "seed": setting.seed,
        "method": method,
        "mode": mode,
        "k": k,
        "n": len(truths),
        "top1": float(hits_at(ranked, truths, 1).mean()),
        "top5": float(hits_at(ranked, truths, 5).mean()),
        "recall_at_k": float(hits_at(ranked, truths, k).mean()),
    }


def ranked_labels(candidates: Sequence[Candidate], ranking: Ranking) -> list[int]:
    """The candidates' labels in the ranker's order."""
    return [candidates[place].label for place in ranking.order]


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` numbers below ``count``, evenly spread."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).astype(int).tolist())) if most and count else []
