"""Evaluates a tuned retriever: recall@k of the encoder before and after tuning, on the same memories and images."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from data_prep.core.results_file import RESULTS, write_results
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.memory.columns import label_rows
from data_prep.memory.memories import load_memories
from data_prep.settings import Recipe, check
from data_prep.settings.loading import load_saved_recipe
from data_prep.settings.notes import embedded_model_note
from eval.metrics.accuracy import hits_at
from eval.metrics.intervals import bootstrap_interval
from eval.recognition.class_halves import limit_evaluated
from eval.recognition.tasks import embed_split
from eval.report.console import Group, print_lines, print_table
from rar_train.engine.result_folder import choose_folder, find_changes, identify
from rar_train.engine.run_folder import find_model

log = logging.getLogger(__name__)

Key = tuple[str, str, int, int]
"""Method, task (``zero_shot``, ``few_shot`` or ``whole_set``), shots and seed; the last two are 0 where none apply."""


def _retrieve(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> dict[Key, list[list[int]]]:
    """Retrieves labels per image, best first, by method and memory."""
    split, args = recipe.eval.split, recipe.eval
    xq = embed_split(recipe, encoder, dataset)

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


def evaluate_retriever(recipe: Recipe, run: Path, name: str | None = None) -> dict:
    """Compares the recipe's encoder with the one that the run tuned.

    Args:
        recipe: All settings.
        run: The run's folder.
        name: Name of the folder of the results; None for one made from the split and differing settings.

    Returns:
        dict: ``rows``, one per method, task, shots, seed and encoder (``before``, ``after``) with ``top1`` and
        ``recall_at_k`` as fractions; and ``summary`` with the means of both over seeds, the gain in recall@k and its
        95 % interval over classes and seeds. It is also written to ``RUN/eval/SPLIT-retriever/results.json``.

    Raises:
        UserError: The run has no model, or is damaged; or the folder of the name holds another evaluation.
    """
    model = find_model(run)
    split, k = recipe.eval.split, recipe.eval.fixed_k
    own = load_saved_recipe(run / "recipe.yaml", [])
    check(
        recipe.eval.classes != "new" or own.data.tune_classes == "base" or recipe.eval.leaks == "allow",
        f"eval.classes=new: {run} was tuned on all classes; tune with data.tune_classes=base, or set eval.leaks=allow",
    )
    dataset = read_dataset(recipe.data, Path(recipe.cache), (f"{split}_memory", split))
    dataset = limit_evaluated(recipe, dataset, run)
    truths = [sample.label for sample in dataset.parts[split]]
    tuned = replace(recipe.retriever, model=f"local-dir:{model}", pretrained=None, tag=None)
    by_stage = {"before": recipe.retriever, "after": tuned}
    encoders = {which: load_encoder(args, replace(recipe.trainer, num_nodes=1)) for which, args in by_stage.items()}
    changes = find_changes(own, recipe)
    identity = identify(recipe, changes, [encoders["after"].id])
    out = choose_folder(run / "eval", f"{split}-retriever", changes, identity, name)
    rows, recall_hits, top1s = [], defaultdict(list), defaultdict(list)
    for which, args in by_stage.items():
        encoder = encoders[which]
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
    note = embedded_model_note(recipe)
    results |= {"notes": [note] if note else [], "evaluation": {"changes": changes, "identity": identity}}
    write_results(out, results)
    log.info("wrote %s", out / RESULTS)
    return results


def print_retriever(results: dict) -> None:
    """Prints top-1 and recall@k before and after, one line per method and memory."""
    recall = f"recall@{results['k']}"
    columns = ("method", "shots", "top-1 before", "after", f"{recall} before", "after ", "gain", "95 % interval")
    rows = []
    for part in results["summary"]:
        mean, low, high = (100 * part["gain"][key] for key in ("mean", "low", "high"))
        percentages = [f"{100 * part[key]:.1f}" for key in ("top1_before", "top1_after", "before", "after")]
        shots = "all" if part["task"] == "whole_set" else str(part["shots"])
        rows.append((part["method"], shots, *percentages, f"{mean:+.1f}", f"{low:+.1f} to {high:+.1f}"))
    title = f"{results['dataset']}, {results['split']}: the retriever before and after, %; gain in {recall}"
    print_table(title, columns, [Group(rows=rows)])
    print_lines(results["notes"])
