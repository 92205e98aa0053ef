"""Console tables of results, as wide as the terminal allows; the page's table has the same columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np

from eval.metrics.accuracy import percent
from eval.metrics.further import columns_of, further_lines
from eval.metrics.summary import ALONE, AVERAGE, RETRIEVERS
from eval.report.console import Group, print_lines, print_table
from eval.report.lines import result_lines
from eval.report.wording import describe_k, describe_memory, order_of_memory

METHODS = (*RETRIEVERS, ALONE, "rar_untuned", "rar", "rar_fused", "rar_gated")
COLUMNS = ("top-1 %", "95 % interval", "top-5 %", "recall@k %", "given hit %", "corrected", "broken", "images", "seeds")
"""Columns of ``method_cells``."""
_OPTIONAL = ("seeds", "top-5 %", "images", "given hit %", "broken", "corrected", "recall@k %")


def _changed(rows: Sequence[dict], key: str) -> str:
    """Formats a number of images, the mean over seeds; empty for a method without it."""
    return f"{np.mean([row[key] for row in rows]):.0f}" if key in rows[0] else ""


def _given_hit(rows: Sequence[dict]) -> str:
    """Formats top-1 given a hit, the mean over seeds."""
    values = [row["top1_given_hit"] for row in rows if row.get("top1_given_hit") is not None]
    return percent([float(np.mean(values))]) if values else ""


def _mean(rows: Sequence[dict], key: str) -> str:
    """Formats a share in per cent, without its deviation over seeds."""
    return percent([float(np.mean([row[key] for row in rows]))])


def interval_bounds(results: dict) -> dict[tuple[str, int, str], str]:
    """Formats the interval of top-1 in per cent, by task, shots and method."""
    return {
        (part["task"], part["shots"], method): f"{100 * metrics['low']:.1f} to {100 * metrics['high']:.1f}"
        for part in results["summary"]
        for method, metrics in part["methods"].items()
    }


def method_cells(rows: Sequence[dict], interval: str) -> list[str]:
    """Formats a method's rows with one memory, one per seed, as a cell for each of ``COLUMNS``."""
    shares = [_mean(rows, key) for key in ("top5", "recall_at_k")]
    counts = [_changed(rows, key) for key in ("corrected", "broken")]
    top1 = percent([row["top1"] for row in rows])
    return [top1, interval, *shares, _given_hit(rows), *counts, str(rows[0]["n"]), str(len(rows))]


def by_memory(results: dict) -> dict[tuple[str, int], dict[str, list[dict]]]:
    """Groups rows by task and shots, then by method; an entry per seed."""
    groups: dict[tuple[str, int], dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in results["rows"]:
        groups[row["task"], row["shots"]][row["method"]].append(row)
    return groups


def print_results(results: dict) -> None:
    """Prints the content of ``results.json``, of one data set or of several."""
    if "base_to_new" in results:
        _print_halves(results)
    elif "datasets" in results:
        for setting in by_setting(results["rows"]):
            _print_by_dataset(results, setting)
    else:
        _print_by_method(results)
    if columns_of(results):
        _print_further(results)
    print_lines(result_lines(results))


def _print_further(results: dict) -> None:
    """Prints the metrics that ``eval.metrics`` added."""
    described = further_lines(results, partial(describe_memory, results=results))
    groups = [
        Group(group["memory"], [[line["method"], *line["values"]] for line in group["lines"]]) for group in described
    ]
    print_table("Further metrics", ["method", *columns_of(results)], groups)


def _print_by_method(results: dict) -> None:
    """Prints a line per method, below a line for each memory."""
    intervals, groups = interval_bounds(results), []
    for (task, shots), by_method in sorted(by_memory(results).items(), key=lambda item: order_of_memory(*item[0])):
        group = Group(describe_memory(task, shots, results))
        for method, rows in by_method.items():
            group.rows.append([method, *method_cells(rows, intervals.get((task, shots, method), ""))])
        groups.append(group)
    title = f"{results['dataset']}, {results['split']}, ranking by {results['mode']}, {describe_k(results)}"
    print_table(title, ["method", *COLUMNS], groups, _OPTIONAL)


def by_setting(rows: list[dict]) -> dict[tuple[str, int], dict[str, dict[str, list[dict]]]]:
    """Groups rows by task and shots, then by data set, then by method; an entry per seed.

    The ranker without retrieval has no memory, so its row is in every group.
    """
    groups: dict[tuple, dict[str, dict[str, list[dict]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        if row["method"] != ALONE:
            groups[row["task"], row["shots"]][row["dataset"]][row["method"]].append(row)
    for row in rows:
        if row["method"] == ALONE:
            for by_set in groups.values():
                by_set[row["dataset"]][ALONE].append(row)
    return groups


def dataset_cells(rows: list[dict], setting: tuple[str, int]) -> tuple[list[str], dict[str, list[str]]]:
    """Makes a table of top-1 for one memory: columns, a method each and recall@k, and cells by data set."""
    by_set = by_setting(rows)[setting]
    methods = [method for method in METHODS if any(method in of_set for of_set in by_set.values())]
    cells = {
        name: [percent([row["top1"] for row in of_set[m]]) if m in of_set else "" for m in methods]
        + [_mean(of_set["rar"], "recall_at_k")]
        for name, of_set in by_set.items()
    }
    return [*methods, "recall@k"], cells


def _print_by_dataset(results: dict, setting: tuple[str, int]) -> None:
    """Prints top-1 by method for one memory: a line per data set and one for the average."""
    columns, cells = dataset_cells(results["rows"], setting)
    columns, groups = [name.replace("_", "\n") for name in columns], [Group(), Group()]
    for name, of_set in cells.items():
        groups[name == AVERAGE].rows.append([name, *of_set])
    title = f"{describe_memory(*setting, results)}, {results['split']}, top-1 %, ranking by {results['mode']}"
    optional = ["rar\ngated", "ranker\nalone", "clip\nzero\nshot", "clip\nknn"]
    print_table(title, ["data set", *columns], groups, [name for name in optional if name in columns], shorten=True)


HALF_COLUMNS = ("base", "new", "H", "95 % interval of H")
"""Columns of ``half_cells``."""


def half_cells(results: dict) -> dict[tuple[str, int], dict[str, dict[str, list[str]]]]:
    """Makes cells of ``HALF_COLUMNS``, top-1 in per cent, by task and shots, then data set, then method."""
    tables: dict[tuple[str, int], dict[str, dict[str, list[str]]]] = defaultdict(dict)
    several = len(results["datasets"]) > 2
    for part in results["base_to_new"]:
        if part["dataset"] == AVERAGE and not several:
            continue
        tables[part["task"], part["shots"]][part["dataset"]] = {
            method: [
                *(f"{100 * halves[half]['mean']:.1f}" for half in ("base", "new", "H")),
                f"{100 * halves['H']['low']:.1f} to {100 * halves['H']['high']:.1f}",
            ]
            for method, halves in part["halves"].items()
        }
    return tables


def _print_halves(results: dict) -> None:
    """Prints base, new and harmonic mean by method, below a line for each data set."""
    for setting, by_set in half_cells(results).items():
        groups = [Group(name, [[m, *cells] for m, cells in of_set.items()]) for name, of_set in by_set.items()]
        title = f"base to new, {describe_memory(*setting, results)}, {results['split']}, top-1 %"
        print_table(f"{title}, ranking by {results['mode']}", ["method", *HALF_COLUMNS], groups)
