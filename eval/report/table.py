"""Console tables of results, and the lines of text below them."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.metrics.accuracy import percent
from eval.metrics.summary import ALONE, AVERAGE, GAINS, RETRIEVERS

METHODS = (*RETRIEVERS, ALONE, "rar_untuned", "rar", "rar_fused", "rar_gated")


def _given_hit(rows: list[dict]) -> str:
    """Formats top-1 given a hit, the mean over seeds."""
    values = [row["top1_given_hit"] for row in rows if row.get("top1_given_hit") is not None]
    return percent(values) if values else ""


def _changed(rows: list[dict]) -> str:
    """Formats the numbers of images that the ranker corrected and broke, the means over seeds."""
    if "corrected" not in rows[0]:
        return ""
    return " / ".join(f"{np.mean([row[key] for row in rows]):.0f}" for key in ("corrected", "broken"))


def interval_bounds(results: dict) -> dict[tuple[str, int, str], str]:
    """Formats the interval of top-1 in per cent, by task, shots and method."""
    return {
        (part["task"], part["shots"], method): f"{100 * metrics['low']:.1f} to {100 * metrics['high']:.1f}"
        for part in results["summary"]
        for method, metrics in part["methods"].items()
    }


def print_results(results: dict) -> None:
    """Prints the content of ``results.json``, of one data set or of several."""
    console = Console(width=140)
    for table in _by_dataset(results) if "datasets" in results else [_by_method(results)]:
        console.print(table)
    details = [*_outcomes(results["rows"]), *_positions(results), *_gates(results), *_unknown(results)]
    for line in [*gain_lines(results), *details, *published_lines(results), *leak_lines(results)]:
        console.print(line, markup=False, highlight=False)


def _by_method(results: dict) -> Table:
    """Makes a table with a line per task, shots and method."""
    table = Table(title=f"{results['dataset']}, {results['split']}, ranking by {results['mode']}, k = {results['k']}")
    shares = ("top-1 %", "95 %", "top-5 %", "recall@k %", "given hit %")
    for column in ("task", "shots", "method", *shares, "+ / -", "images", "seeds"):
        table.add_column(column, justify="left" if column in ("task", "method") else "right")
    lines: dict[tuple, list[dict]] = defaultdict(list)
    for row in results["rows"]:
        lines[row["task"], row["shots"], row["method"]].append(row)
    intervals, previous = interval_bounds(results), None
    for (task, shots, method), rows in lines.items():
        if previous not in (None, (task, shots)):
            table.add_section()
        previous = (task, shots)
        top1, top5, recall = (percent([row[key] for row in rows]) for key in ("top1", "top5", "recall_at_k"))
        metrics = [top1, intervals.get((task, shots, method), ""), top5, recall, _given_hit(rows), _changed(rows)]
        table.add_row(task, str(shots), method, *metrics, str(rows[0]["n"]), str(len(rows)))
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


def describe_memory(task: str, shots: int) -> str:
    """Describes a memory in words."""
    descriptions = {"few_shot": f"{shots} shot{'s' if shots > 1 else ''}", "whole_set": "full training set as memory"}
    return descriptions.get(task, task.replace("_", " "))


def _by_dataset(results: dict) -> list[Table]:
    """Makes a table per task and shots: top-1 by method, a line per data set and one for the average."""
    tables = []
    for (task, shots), by_set in by_setting(results["rows"]).items():
        table = Table(
            title=f"{describe_memory(task, shots)}, {results['split']}, top-1 %, ranking by {results['mode']}"
        )
        methods = [method for method in METHODS if any(method in of_set for of_set in by_set.values())]
        for column in ("data set", *methods, f"recall@{results['k']}", "given hit", "+ / -"):
            table.add_column(column.replace("_", " "), justify="left" if column == "data set" else "right")
        for name, of_set in by_set.items():
            if name == AVERAGE:
                table.add_section()
            shares = [percent([row["top1"] for row in of_set[m]]) if m in of_set else "" for m in methods]
            tuned = of_set["rar"]
            recall = percent([row["recall_at_k"] for row in tuned])
            table.add_row(name, *shares, recall, _given_hit(tuned), _changed(tuned))
        tables.append(table)
    return tables


def gain_lines(results: dict) -> list[str]:
    """Describes the gains of the tuned ranker in points; of several data sets, on average."""
    lines = []
    for part in results["summary"]:
        if part.get("dataset", AVERAGE) != AVERAGE:
            continue
        for name in (name for name in GAINS if name in part):
            gain, method = part[name], name.partition("_minus_")[0]
            lines.append(
                f"{part['task']} {part['shots']}: {method} - {gain['reference']} = {100 * gain['mean']:+.1f} points "
                f"(95 % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
            )
    return lines


def published_lines(results: dict) -> list[str]:
    """Describes the comparison with the paper's results; encoder and ranker may differ."""
    return [
        f"{row['dataset']}, {describe_memory(row['task'], row['shots'])}: "
        f"{row['method']} {row['figure']} {row['measured']:.1f}, "
        f"paper{' with ' + row['ranker'] if 'ranker' in row else ''} {row['published']:.1f}, "
        f"difference {row['difference']:+.1f}"
        for row in results.get("published", [])
    ]


def leak_lines(results: dict) -> list[str]:
    """Describes copies and near-duplicates of evaluated images, where there are any."""
    leaks_found = results.get("leaks", {})
    by_set = leaks_found if "datasets" in results else {results["dataset"]: leaks_found}
    lines = []
    for name, leaks in by_set.items():
        for part, matches in leaks.get("parts", {}).items():
            counts = []
            if matches["exact"]:
                counts.append(f"{matches['exact']} of {leaks['queries']} evaluated images are in {part} byte for byte")
            if matches["near"]:
                counts.append(
                    f"{matches['near']} of {leaks['near_queries']} have a near-duplicate in {part} "
                    f"(cosine {leaks['near_from']} or more)"
                )
            lines += [f"leaks, {name}: {', '.join(counts)}; results.json lists pairs"] if counts else []
    return lines


def _outcomes(rows: list[dict]) -> list[str]:
    """Describes the parse outcomes of replies by method, where not all were ok."""
    totals: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        if row["dataset"] != AVERAGE:
            totals[row["method"]].update(row.get("outcomes", {}))
    return [
        f"{method}: replies {', '.join(f'{name} {count}' for name, count in sorted(total.items()))}"
        for method, total in totals.items()
        if set(total) - {"ok"}
    ]


def _positions(results: dict) -> list[str]:
    """Describes top-1 by the position at which the true class is shown, where an order was shown."""
    lines = []
    for method, by_order in results.get("by_place", {}).items():
        shares = [row["top1"] for row in by_order.get("shown", [])]
        if shares:
            metrics = ", ".join("-" if share is None else f"{100 * share:.1f}" for share in shares)
            lines.append(f"{method}: top-1 % by the position at which the true class is shown: {metrics}")
    return lines


def _gates(results: dict) -> list[str]:
    """Describes the gates' curves."""
    return [
        f"{kind}: the gate sends {100 * gate['share_asked']:.0f} % of the images to the ranker; "
        "top-1 % with 0, 10, … 100 % ranked: " + ", ".join(f"{100 * point['top1']:.1f}" for point in gate["curve"])
        for kind, gate in results.get("gate", {}).items()
    ]


def _unknown(results: dict) -> list[str]:
    """Describes open-set recognition."""
    metrics = results.get("unknown")
    if not metrics:
        return []
    by_signal = ", ".join(f"{name} {value:.3f}" for name, value in metrics["auroc"].items())
    return [
        f"unknown classes: AUROC {by_signal}; by {metrics['signal']}, {100 * metrics['known_accepted']:.1f} % of "
        f"known images are accepted and {100 * metrics['unknown_refused']:.1f} % of unknown ones refused"
    ]
