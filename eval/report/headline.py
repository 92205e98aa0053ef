"""Headline of the report page: per memory, the retriever, the rankers and their ceiling, with intervals and gains."""

from __future__ import annotations

import numpy as np

from eval.metrics.summary import AVERAGE, GAINS, RETRIEVERS
from eval.report.choice import best_retriever, choices_by_memory, describe_choice, shortfalls, used_methods
from eval.report.plots import COLOUR_OF
from eval.report.wording import describe_memory, order_of_kind

_LABELS = {"rar_untuned": "untuned", "rar": "tuned", "rar_fused": "fused"}


def _badges(part: dict, method: str) -> list[dict[str, str]]:
    """Describes a method's gains in points, each with its interval and whether the interval excludes 0."""
    badges = []
    for gain in (part[name] for name in GAINS if name in part and name.startswith(f"{method}_minus_")):
        sign = "good" if gain["low"] > 0 else "bad" if gain["high"] < 0 else "even"
        interval = f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}"
        badges.append(
            {"gain": f"{100 * gain['mean']:+.1f}", "interval": interval, "over": gain["reference"], "sign": sign}
        )
    return badges


def _tile(part: dict, method: str, label: str) -> dict:
    shares = {key: 100 * part["methods"][method][key] for key in ("mean", "low", "high")}
    return {"label": label, "method": method, "colour": COLOUR_OF[method], "badges": _badges(part, method), **shares}


def _ceiling(rows: list[dict]) -> dict:
    """Makes the tile of recall@k from the tuned ranker's rows, one per seed."""
    recall = 100 * float(np.mean([row["recall_at_k"] for row in rows]))
    tile = {"label": "ceiling", "method": "recall@k", "colour": COLOUR_OF["recall"], "badges": []}
    return tile | {"mean": recall, "low": None, "high": None}


def _strip(part: dict, results: dict, rows: list[dict], choice: dict, used: str) -> dict:
    """Makes the strip of one memory from its part of the summary and the data set's rows."""
    task, shots, methods = part["task"], part["shots"], part["methods"]
    tuned = [row for row in rows if (row["task"], row["shots"], row["method"]) == (task, shots, "rar")]
    labels = {best_retriever(part): "best retriever"}
    labels |= {used: "retriever"} if choice and used in RETRIEVERS and used not in labels else {}
    labels |= {method: label for method, label in _LABELS.items() if method in methods}
    tiles = [*(_tile(part, method, label) for method, label in labels.items())]
    tiles += [_ceiling(tuned)] if tuned else []  # there is none of a harmonic mean
    return {
        "memory": describe_memory(task, shots, results),
        "setting": f"{task}-{shots}",
        "choice": f"Validation: {describe_choice(choice)}." if choice else "",
        "notes": [f"{shortfall}." for shortfall in shortfalls(part, choice)],
        "tiles": [tile | {"used": bool(choice) and tile["method"] == used} for tile in tiles],
    }


def headline(results: dict) -> list[dict]:
    """Makes a strip per task and number of shots; of several data sets, of their average.

    Args:
        results: ``results.json``.

    Returns:
        list[dict]: ``memory`` in words; ``setting``, as ``few_shot-4``; ``choice``, what is used and why, or empty;
        ``notes``; and ``tiles``: the best retriever row, and the one that is used where that is another; the untuned,
        tuned and fused ranker; and recall@k as their ceiling. A tile has ``label``, ``method``, ``colour``, ``mean``,
        ``low`` and ``high`` in per cent (no interval of the ceiling), ``badges`` and ``used``.
    """
    dataset = AVERAGE if "datasets" in results else results["dataset"]
    rows = [row for row in results["rows"] if row["dataset"] == dataset]
    choices, used = choices_by_memory(results), used_methods(results)
    parts = [part for part in results["summary"] if part.get("dataset", AVERAGE) == AVERAGE]
    parts.sort(key=lambda part: order_of_kind(f"{part['task']}-{part['shots']}"))
    memories = [(part["task"], part["shots"]) for part in parts]
    return [
        _strip(part, results, rows, choices[memory], used[memory]) for part, memory in zip(parts, memories, strict=True)
    ]
