"""Words for memories, sources and numbers of candidates, and the parts of ``results.json`` by kind of memory."""

from __future__ import annotations

from collections.abc import Iterator

SOURCES = {"image": "images", "name": "names", "fused": "images and names"}


def describe_memory(task: str, shots: int) -> str:
    """Describes a memory in words."""
    descriptions = {"few_shot": f"{shots} shot{'s' if shots > 1 else ''}", "whole_set": "full training set as memory"}
    return descriptions.get(task, task.replace("_", " "))


def describe_kind(kind: str) -> str:
    """Describes a kind of memory in words: ``few_shot-4`` as ``4 shots``."""
    task, _, shots = kind.rpartition("-")
    return describe_memory(task, int(shots))


def order_of_kind(kind: str) -> tuple[bool, int]:
    """Returns a sort key of kinds of memory: by shots, the full training set last."""
    return kind.startswith("whole_set"), int(kind.rpartition("-")[2])


def by_dataset(results: dict, key: str) -> dict[str, dict]:
    """Returns a part of ``results.json`` by data set; empty where the evaluation does not have it."""
    values = results.get(key, {})
    return values if "datasets" in results else {results["dataset"]: values}


def by_kind(results: dict, key: str) -> Iterator[tuple[str, dict]]:
    """Yields a part of ``results.json`` by kind of memory, in words, after the data set where there are several."""
    for dataset, kinds in by_dataset(results, key).items():
        for kind in sorted(kinds, key=order_of_kind):
            yield f"{dataset}, " * ("datasets" in results) + describe_kind(kind), kinds[kind]


def describe_k(results: dict) -> str:
    """Describes the number of candidates: ``k = 5``, or ``k = 10, 20`` where it was chosen by kind of memory."""
    chosen = {choice["k"] for _, choice in by_kind(results, "choice")}
    return f"k = {', '.join(map(str, sorted(chosen or {results['k']})))}"
