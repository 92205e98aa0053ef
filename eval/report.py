"""The summary over seeds, and the table on the console."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.metrics import bootstrap_interval

RETRIEVERS = ("clip_zero_shot", "clip_knn", "clip_fused")


def summarise(rows: list[dict], hits: dict[tuple, np.ndarray], classes: np.ndarray, resamples: int) -> list[dict]:
    """Mean and standard deviation over seeds, and what the ranker gains.

    Args:
        rows: All rows.
        hits: Top-1 hits per image by (task, shots, seed, method), shape ``[n]`` each.
        classes: True class of each image.
        resamples: Of the bootstrap.

    Returns:
        list[dict]: Per task, shots and mode: ``methods`` with mean and sd of top-1, and the gains
        ``rar_minus_retriever`` (over the best retriever row by mean) and ``rar_minus_untuned``,
        each with mean and 95 % interval over classes, seeds averaged first.
    """
    groups: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["method"] != "ranker_alone":
            groups[row["task"], row["shots"]][row["method"]].append(row["top1"])
    summary = []
    for (task, shots), methods in groups.items():
        seeds = sorted({key[2] for key in hits if key[:2] == (task, shots)})

        def mean_hits(method: str, task=task, shots=shots, seeds=seeds) -> np.ndarray:
            return np.mean([hits[task, shots, seed, method] for seed in seeds], axis=0)

        best = max((m for m in RETRIEVERS if m in methods), key=lambda m: np.mean(methods[m]))
        gains = {}
        for name, reference in (("rar_minus_retriever", best), ("rar_minus_untuned", "rar_untuned")):
            difference = mean_hits("rar") - mean_hits(reference)
            mean, low, high = bootstrap_interval(difference, classes, resamples)
            gains[name] = {"reference": reference, "mean": mean, "low": low, "high": high}
        figures = {
            method: {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
            for method, values in methods.items()
        }
        summary.append({"task": task, "shots": shots, "seeds": len(seeds), "methods": figures, **gains})
    return summary


def _percent(values: list[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread}"


def print_table(results: dict) -> None:
    """Prints one line per task, shots and method, and the gains below."""
    rows = results["rows"]
    table = Table(title=f"{results['dataset']}, {results['split']}, ranking by {results['mode']}, k = {results['k']}")
    for column in ("task", "shots", "method", "top-1 %", "top-5 %", "recall@k %", "images", "seeds"):
        table.add_column(column, justify="left" if column in ("task", "method") else "right")
    lines: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        lines[row["task"], row["shots"], row["method"]].append(row)
    last = None
    for (task, shots, method), own in lines.items():
        if last not in (None, (task, shots)):
            table.add_section()
        last = (task, shots)
        figures = [_percent([row[key] for row in own]) for key in ("top1", "top5", "recall_at_k")]
        table.add_row(task, str(shots), method, *figures, str(own[0]["n"]), str(len(own)))
    console = Console(width=100)
    console.print(table)
    for part in results["summary"]:
        for name in ("rar_minus_retriever", "rar_minus_untuned"):
            gain = part[name]
            console.print(
                f"{part['task']} {part['shots']}: rar - {gain['reference']} = {100 * gain['mean']:+.1f} points "
                f"(95 % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
            )
