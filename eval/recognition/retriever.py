"""Evaluates a tuned retriever: recall@k of the encoder before and after tuning, on the same memories and images."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.core.results_file import write_results
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import Encoder, embed_images, load_encoder
from data_prep.memory.columns import label_rows
from data_prep.memory.memories import load_memories
from data_prep.settings import Recipe
from eval.metrics.accuracy import hits_at
from eval.metrics.intervals import bootstrap_interval
from rar_train.engine.run_folder import find_model

log = logging.getLogger(__name__)

Key = tuple[str, str, int, int]
"""Method, task (``zero_shot``, ``few_shot`` or ``whole_set``), shots and seed; the last two are 0 where none apply."""


def _retrieve(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> dict[Key, list[list[int]]]:
    """Retrieves labels per image, best first, by method and memory."""
    split, args = recipe.eval.split, recipe.eval
    xq = embed_images(encoder, dataset.parts[split], recipe.retriever, Path(recipe.cache))

    def labels(memories, source: str) -> list[list[int]]:
        return label_rows(memories.search(source, xq, args.fixed_k, recipe.retriever)[1])

    names = load_memories(recipe, encoder, dataset, f"{split}_memory", 0, 0)
    retrieved = {("clip_zero_shot", "zero_shot", 0, 0): labels(names, "name")}
    tasks = [("few_shot", shots, seed) for shots in args.shots for seed in args.seeds]
    tasks += [("whole_set", 0, 0)] if args.full_train_memory else []
    for task, shots, seed in tasks:
        sampled = None if task == "whole_set" else shots
        memories = load_memories(recipe, encoder, dataset, f"{split}_memory", sampled, seed)
        retrieved["clip_knn", task, shots, seed] = labels(memories, "image")
        retrieved["clip_fused", task, shots, seed] = labels(memories, "fused")
    return retrieved


def evaluate_retriever(recipe: Recipe, run: Path) -> dict:
    """Compares the recipe's encoder with the one that the run tuned.

    Returns:
        dict: ``rows``, one per method, task, shots, seed and encoder (``before``, ``after``) with ``top1`` and
        ``recall_at_k`` as fractions; and ``summary`` with the means of both over seeds, the gain in recall@k and its
        95 % interval over classes and seeds. It is also written to ``RUN/eval/SPLIT-retriever/results.json``.

    Raises:
        UserError: The run has no model, or is damaged.
    """
    model = find_model(run)
    split, k = recipe.eval.split, recipe.eval.fixed_k
    dataset = read_dataset(recipe.data, Path(recipe.cache), (f"{split}_memory", split))
    truths = [sample.label for sample in dataset.parts[split]]
    tuned = replace(recipe.retriever, model=f"local-dir:{model}", pretrained=None, tag=None)
    rows, recall_hits, top1s = [], defaultdict(list), defaultdict(list)
    for which, args in (("before", recipe.retriever), ("after", tuned)):
        encoder = load_encoder(args, replace(recipe.trainer, num_nodes=1))
        log.info("%s: %s", which, encoder.id)
        for key, ranked in _retrieve(replace(recipe, retriever=args), encoder, dataset).items():
            method, task, shots, seed = key
            hits = hits_at(ranked, truths, k).astype(float)
            recall_hits[*key[:3], which].append(hits)
            top1 = float(hits_at(ranked, truths, 1).mean())
            top1s[*key[:3], which].append(top1)
            row = {"method": method, "task": task, "shots": shots, "seed": seed, "encoder": which, "k": k}
            row["n"] = len(truths)
            rows.append(row | {"top1": top1, "recall_at_k": float(hits.mean())})
    summary = []
    for memory in dict.fromkeys(key[:3] for key in recall_hits):
        before, after = (np.stack(recall_hits[*memory, which]) for which in ("before", "after"))
        mean, low, high = bootstrap_interval(after - before, np.array(truths), recipe.eval.bootstrap)
        part = dict(zip(("method", "task", "shots"), memory, strict=True))
        part |= {"before": float(before.mean()), "after": float(after.mean())}
        part |= {f"top1_{which}": float(np.mean(top1s[*memory, which])) for which in ("before", "after")}
        summary.append(part | {"gain": {"mean": mean, "low": low, "high": high}})
    results = {"dataset": dataset.name, "split": split, "k": k, "settings": asdict(tuned)}
    results |= {"skipped": dict(dataset.skipped), "rows": rows, "summary": summary}
    write_results(run / "eval" / f"{split}-retriever", results)
    return results


def print_retriever(results: dict) -> None:
    """Prints top-1 and recall@k before and after, one line per method and memory."""
    table = Table(title=f"{results['dataset']}, {results['split']}: the retriever before and after, %")
    recall = f"recall@{results['k']}"
    for column in ("method", "shots", "top-1", "after", recall, "after", f"gain in {recall} (95 % interval)"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for part in results["summary"]:
        mean, low, high = (100 * part["gain"][key] for key in ("mean", "low", "high"))
        percentages = [f"{100 * part[key]:.1f}" for key in ("top1_before", "top1_after", "before", "after")]
        shots = "all" if part["task"] == "whole_set" else str(part["shots"])
        table.add_row(part["method"], shots, *percentages, f"{mean:+.1f} ({low:+.1f} to {high:+.1f})")
    Console(width=100).print(table)
