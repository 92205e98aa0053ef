"""Metrics that ``eval.metrics`` adds to every row: of this project, of the user's own, or of an installed package.

A metric is a function of a row's predictions, as ``eval.report.predictions.read_predictions`` yields them, that returns
a number, or None where there is nothing to compute. Its name is a column of ``results.json``, of the console's and the
page's table, and of trackers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from data_prep.core.errors import UserError
from data_prep.extensions.finding import METRICS, call_extension, list_entry_points, load_extension
from data_prep.settings import check

Predictions = Sequence[Mapping[str, Any]]
Metric = Callable[[Predictions], float | None]

ROW_KEYS = (
    "task", "dataset", "shots", "seed", "method", "mode", "k", "n", "top1", "top5", "recall_at_k", "top1_given_hit",
    "corrected", "broken", "outcomes", "tied",
)  # fmt: skip
"""Keys that rows have anyway."""


def mean_class_top1(predictions: Predictions) -> float:
    """Returns top-1 averaged over classes, 0 to 1: every class counts equally, however many images it has."""
    hits = defaultdict(list)
    for prediction in predictions:
        hits[prediction["truth"]].append(prediction["truth"] == prediction["ranking"][0])
    return float(np.mean([np.mean(of_class) for of_class in hits.values()]))


def mean_reciprocal_rank(predictions: Predictions) -> float:
    """Returns the mean of 1 / rank of the true class, 0 to 1; 0 for an image whose list lacks it."""
    ranks = [p["ranking"].index(p["truth"]) + 1 if p["truth"] in p["ranking"] else np.inf for p in predictions]
    return float(np.mean(1 / np.array(ranks, float)))


FURTHER: dict[str, Metric] = {
    "mean_class_top1": mean_class_top1,
    "mean_reciprocal_rank": mean_reciprocal_rank,
}


def column_of(metric: str) -> str:
    """Returns the column of a metric as ``eval.metrics`` names it: the function's name, or the entry point's."""
    return metric.rpartition(":")[2].rpartition(".")[2]


def columns_of(results: Mapping[str, Any]) -> list[str]:
    """Returns the columns that ``eval.metrics`` added to the rows of a ``results.json``."""
    return [column_of(metric) for metric in results.get("metrics", ())]


def load_metrics(metrics: Sequence[str]) -> dict[str, Metric]:
    """Loads metrics.

    Args:
        metrics: As ``eval.metrics`` names them.

    Returns:
        dict[str, Metric]: By column.

    Raises:
        UserError: One does not exist or cannot be imported, or two have the same column.
    """
    loaded: dict[str, Metric] = {}
    for metric in metrics:
        function = FURTHER.get(metric) or load_extension("eval.metrics", metric, METRICS)
        if function is None:
            names = ", ".join([*FURTHER, *list_entry_points(METRICS)])
            raise UserError(f"eval.metrics: {metric}: there are {names}; module:function names one of your own")
        column = column_of(metric)
        check(column not in ROW_KEYS, f"eval.metrics: {metric}: rows have a column {column} already; rename it")
        check(column not in loaded, f"eval.metrics: {metric}: two metrics have the name {column}; rename one")
        loaded[column] = function
    return loaded


def compute_metrics(metrics: Mapping[str, Metric], predictions: Predictions, row: str) -> dict[str, float | None]:
    """Computes metrics of a row.

    Args:
        metrics: From ``load_metrics``.
        predictions: The row's, one per image.
        row: What messages call the row.

    Returns:
        dict[str, float | None]: By column.

    Raises:
        UserError: A metric fails, or returns something that is neither a finite number nor None.
    """
    values: dict[str, float | None] = {}
    for column, function in metrics.items():
        value = call_extension(function, predictions, failure=f"eval.metrics: {column} failed on {row}")
        is_number = isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))
        check(
            value is None or is_number,
            f"eval.metrics: {column} returned {value!r} on {row}; return a finite number, or None",
        )
        values[column] = None if value is None else float(value)
    return values


def format_values(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """Formats a metric's mean over rows, one per seed, with its standard deviation; empty without any value."""
    values = [row[column] for row in rows if row.get(column) is not None]
    if not values:
        return ""
    deviation = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{deviation}"


def further_lines(results: Mapping[str, Any], describe: Callable[[str, int], str]) -> list[dict[str, Any]]:
    """Makes the lines of a table of these metrics.

    Args:
        results: ``results.json``, of one data set or of several.
        describe: Describes a memory by task and shots.

    Returns:
        list[dict[str, Any]]: In groups: ``memory`` in words, after the data set where there are several, and
        ``lines``, each with ``method`` and ``values``, formatted by column. Empty without further metrics.
    """
    columns = columns_of(results)
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in results["rows"] if columns else ():
        memory = f"{row['dataset']}, " * ("datasets" in results) + describe(row["task"], row["shots"])
        groups[memory][row["method"]].append(row)
    return [
        {
            "memory": memory,
            "lines": [
                {"method": method, "values": [format_values(rows, column) for column in columns]}
                for method, rows in by_method.items()
            ],
        }
        for memory, by_method in groups.items()
    ]
