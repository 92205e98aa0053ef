"""Words for memories, sources and numbers of candidates, and the parts of ``results.json`` by kind of memory."""

from __future__ import annotations

from collections.abc import Iterator

from eval.metrics.summary import CHOICE

SOURCES = {
    "image": "images",
    "name": "names",
    "fused": "images and names",
    "tip": "Tip-Adapter",
    "tip_f": "Tip-Adapter-F",
    "linear_probe": "the linear probe",
    "clip_lora": "CLIP-LoRA",
}


def describe_memory(task: str, shots: int, results: dict) -> str:
    """Describes a memory in words: ``4 shots``, or ``all images (16 shots)`` where no class holds more."""
    words = f"{shots} shot{'s' if shots > 1 else ''}"
    words = f"all images ({words})" if holds_all(results, shots) else words
    descriptions = {"few_shot": words, "whole_set": "full training set as memory"}
    descriptions |= {CHOICE: f"{results.get('choices', '')}-way choice".lstrip("-")}
    return descriptions.get(task, task.replace("_", " "))


def holds_all(results: dict, shots: int) -> bool:
    """Returns whether every class has fewer images than shots, in every data set: the memory holds all images."""
    by_set = by_dataset(results, "shots_held").values()
    held = [of_set.get(str(shots)) for of_set in by_set]
    return bool(held) and all(counts is not None and counts["fewer"] == counts["classes"] for counts in held)


def describe_kind(kind: str, results: dict) -> str:
    """Describes a kind of memory in words: ``few_shot-4`` as ``4 shots``."""
    task, _, shots = kind.rpartition("-")
    return describe_memory(task, int(shots), results)


def order_of_memory(task: str, shots: int) -> tuple[int, int]:
    """Returns a sort key of memories: by shots, the full training set last, and then multiple choice."""
    return (task == "whole_set") + 2 * (task == CHOICE), shots


def order_of_kind(kind: str) -> tuple[int, int]:
    """Returns a sort key of kinds of memory, such as ``few_shot-4``; see ``order_of_memory``."""
    task, _, shots = kind.rpartition("-")
    return order_of_memory(task, int(shots))


def by_dataset(results: dict, key: str) -> dict[str, dict]:
    """Returns a part of ``results.json`` by data set; empty where the evaluation does not have it."""
    values = results.get(key, {})
    return values if "datasets" in results else {results.get("dataset", ""): values}


def by_kind(results: dict, key: str) -> Iterator[tuple[str, dict]]:
    """Yields a part of ``results.json`` by kind of memory, in words, after the data set where there are several."""
    for dataset, kinds in by_dataset(results, key).items():
        for kind in sorted(kinds, key=order_of_kind):
            yield f"{dataset}, " * ("datasets" in results) + describe_kind(kind, results), kinds[kind]


def describe_k(results: dict) -> str:
    """Describes the number of candidates: ``k = 5``, or ``k = 10, 20`` where it was chosen by kind of memory."""
    chosen = {choice["k"] for _, choice in by_kind(results, "choice")}
    return f"k = {', '.join(map(str, sorted(chosen or {results['k']})))}"
