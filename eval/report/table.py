"""Console tables of results, as wide as the terminal allows."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from eval.metrics.accuracy import percent
from eval.metrics.summary import ALONE, AVERAGE, RETRIEVERS
from eval.report.lines import result_lines
from eval.report.wording import describe_k, describe_memory

METHODS = (*RETRIEVERS, ALONE, "rar_untuned", "rar", "rar_fused", "rar_gated")
_WIDTH = 140
"""Width where the output is no terminal's."""
_LIGHT: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "show_edge": False, "pad_edge": False}


def _given_hit(rows: list[dict]) -> str:
    """Formats top-1 given a hit, the mean over seeds."""
    values = [row["top1_given_hit"] for row in rows if row.get("top1_given_hit") is not None]
    return percent(values) if values else ""


def _changed(rows: list[dict]) -> str:
    """Formats the numbers of images that the ranker corrected and broke, the means over seeds."""
    if "corrected" not in rows[0]:
        return ""
    return " / ".join(f"{np.mean([row[key] for row in rows]):.0f}" for key in ("corrected", "broken"))


def _mean(rows: list[dict], key: str) -> str:
    """Formats a share in per cent, without its deviation over seeds."""
    return percent([float(np.mean([row[key] for row in rows]))])


def interval_bounds(results: dict) -> dict[tuple[str, int, str], str]:
    """Formats the interval of top-1 in per cent, by task, shots and method."""
    return {
        (part["task"], part["shots"], method): f"{100 * metrics['low']:.1f} to {100 * metrics['high']:.1f}"
        for part in results["summary"]
        for method, metrics in part["methods"].items()
    }


def print_results(results: dict) -> None:
    """Prints the content of ``results.json``, of one data set or of several."""
    console = Console(width=shutil.get_terminal_size((_WIDTH, 0)).columns)
    if "datasets" in results:
        for setting in by_setting(results["rows"]):
            _print_widest(console, lambda narrow, setting=setting: _by_dataset(results, setting, narrow))
    else:
        _print_widest(console, lambda narrow: _by_method(results, narrow))
    for line in result_lines(results):
        console.print(line, markup=False, highlight=False)


def _print_widest(console: Console, make_table: Callable[[bool], Table]) -> None:
    """Prints a table, or its narrow form where the terminal would break the cells of the wide one."""
    wide = make_table(False)
    unbounded = console.options.update(max_width=1000)
    fits = Measurement.get(console, unbounded, wide).maximum <= console.width
    console.print(wide if fits else make_table(True))


def _by_method(results: dict, narrow: bool) -> Table:
    """Makes a table with a line per task, shots and method; the narrow form has a line above each memory's methods."""
    title = f"{results['dataset']}, {results['split']}, ranking by {results['mode']}, {describe_k(results)}"
    lines: dict[tuple[str, int], dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in results["rows"]:
        lines[row["task"], row["shots"]][row["method"]].append(row)
    return _narrow_by_method(results, title, lines) if narrow else _wide_by_method(results, title, lines)


def _wide_by_method(results: dict, title: str, lines: dict[tuple[str, int], dict[str, list[dict]]]) -> Table:
    table, intervals = Table(title=title), interval_bounds(results)
    shares = ("top-1 %", "95 %", "top-5 %", "recall@k %", "given hit %")
    for column in ("task", "shots", "method", *shares, "+ / -", "images", "seeds"):
        table.add_column(column, justify="left" if column in ("task", "method") else "right")
    for (task, shots), by_method in lines.items():
        table.add_section()
        for method, rows in by_method.items():
            top1, top5, recall = (percent([row[key] for row in rows]) for key in ("top1", "top5", "recall_at_k"))
            metrics = [top1, intervals.get((task, shots, method), ""), top5, recall, _given_hit(rows), _changed(rows)]
            table.add_row(task, str(shots), method, *metrics, str(rows[0]["n"]), str(len(rows)))
    return table


def _narrow_by_method(results: dict, title: str, lines: dict[tuple[str, int], dict[str, list[dict]]]) -> Table:
    table, intervals = Table(title=title, **_LIGHT), interval_bounds(results)
    for column in ("method", "top-1 %", "95 %", "recall@k", "given hit", "+ / -"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for (task, shots), by_method in lines.items():
        table.add_section()
        table.add_row(describe_memory(task, shots), style="bold")
        for method, rows in by_method.items():
            top1 = percent([row["top1"] for row in rows])
            given_hit = _given_hit(rows).partition(" ")[0]  # without its deviation
            metrics = [top1, intervals.get((task, shots, method), ""), _mean(rows, "recall_at_k"), given_hit]
            table.add_row(method, *metrics, _changed(rows))
    return table


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


def _by_dataset(results: dict, setting: tuple[str, int], narrow: bool) -> Table:
    """Makes a table of top-1 by method for one memory: a line per data set and one for the average."""
    by_set = by_setting(results["rows"])[setting]
    methods = [method for method in METHODS if any(method in of_set for of_set in by_set.values())]
    methods = [method for method in methods if method != "rar_gated" or not narrow]
    title = f"{describe_memory(*setting)}, {results['split']}, top-1 %, ranking by {results['mode']}"
    table = Table(title=title, **_LIGHT)
    for column in ("data set", *methods, "recall@k", *(() if narrow else ("given hit", "+ / -"))):
        table.add_column(column.replace("_", "\n"), justify="left" if column == "data set" else "right")
    for name, of_set in by_set.items():
        if name == AVERAGE:
            table.add_section()
        if narrow:
            metrics = [_mean(of_set[method], "top1") if method in of_set else "" for method in methods]
            table.add_row(name, *metrics, _mean(of_set["rar"], "recall_at_k"))
        else:
            metrics = [percent([row["top1"] for row in of_set[m]]) if m in of_set else "" for m in methods]
            recall = percent([row["recall_at_k"] for row in of_set["rar"]])
            table.add_row(name, *metrics, recall, _given_hit(of_set["rar"]), _changed(of_set["rar"]))
    return table
