"""The tables on the console, and what stands below them in words."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.metrics.accuracy import percent
from eval.metrics.summary import ALONE, AVERAGE, GAINS, RETRIEVERS

METHODS = (*RETRIEVERS, ALONE, "rar_untuned", "rar", "rar_fused", "rar_gated")


def _given_hit(own: list[dict]) -> str:
    values = [row["top1_given_hit"] for row in own if row.get("top1_given_hit") is not None]
    return percent(values) if values else ""


def _moved(own: list[dict]) -> str:
    """Images that the ranker corrected and broke, the mean over seeds."""
    if "corrected" not in own[0]:
        return ""
    return " / ".join(f"{np.mean([row[key] for row in own]):.0f}" for key in ("corrected", "broken"))


def interval_bounds(results: dict) -> dict[tuple[str, int, str], str]:
    """The interval of top-1 in per cent, by task, shots and method."""
    return {
        (part["task"], part["shots"], method): f"{100 * own['low']:.1f} to {100 * own['high']:.1f}"
        for part in results["summary"]
        for method, own in part["methods"].items()
    }


def print_results(results: dict) -> None:
    """Prints what ``results.json`` holds, of one data set or of several."""
    console = Console(width=140)
    for table in _by_dataset(results) if "datasets" in results else [_by_method(results)]:
        console.print(table)
    more = [*_outcomes(results["rows"]), *_places(results), *_gates(results), *_unknown(results)]
    for line in [*gain_lines(results), *more, *published_lines(results), *leak_lines(results)]:
        console.print(line, markup=False, highlight=False)


def _by_method(results: dict) -> Table:
    """A line per task, shots and method."""
    table = Table(title=f"{results['dataset']}, {results['split']}, ranking by {results['mode']}, k = {results['k']}")
    shares = ("top-1 %", "95 %", "top-5 %", "recall@k %", "given hit %")
    for column in ("task", "shots", "method", *shares, "+ / -", "images", "seeds"):
        table.add_column(column, justify="left" if column in ("task", "method") else "right")
    lines: dict[tuple, list[dict]] = defaultdict(list)
    for row in results["rows"]:
        lines[row["task"], row["shots"], row["method"]].append(row)
    intervals, last = interval_bounds(results), None
    for (task, shots, method), own in lines.items():
        if last not in (None, (task, shots)):
            table.add_section()
        last = (task, shots)
        top1, top5, recall = (percent([row[key] for row in own]) for key in ("top1", "top5", "recall_at_k"))
        metrics = [top1, intervals.get((task, shots, method), ""), top5, recall, _given_hit(own), _moved(own)]
        table.add_row(task, str(shots), method, *metrics, str(own[0]["n"]), str(len(own)))
    return table


def by_setting(rows: list[dict]) -> dict[tuple[str, int], dict[str, dict[str, list[dict]]]]:
    """Rows by task and shots, then by data set, then by method; an entry a seed.

    The ranker alone has no memory, so its row stands with each.
    """
    found: dict[tuple, dict[str, dict[str, list[dict]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        if row["method"] != ALONE:
            found[row["task"], row["shots"]][row["dataset"]][row["method"]].append(row)
    for row in rows:
        if row["method"] == ALONE:
            for by_set in found.values():
                by_set[row["dataset"]][ALONE].append(row)
    return found


def describe_memory(task: str, shots: int) -> str:
    """A memory in words."""
    words = {"few_shot": f"{shots} shot{'s' if shots > 1 else ''}", "whole_set": "whole training set as memory"}
    return words.get(task, task.replace("_", " "))


def _by_dataset(results: dict) -> list[Table]:
    """A table per task and shots: a line per data set and one for the average, top-1 by method."""
    tables = []
    for (task, shots), by_set in by_setting(results["rows"]).items():
        table = Table(
            title=f"{describe_memory(task, shots)}, {results['split']}, top-1 %, ranking by {results['mode']}"
        )
        methods = [method for method in METHODS if any(method in own for own in by_set.values())]
        for column in ("data set", *methods, f"recall@{results['k']}", "given hit", "+ / -"):
            table.add_column(column.replace("_", " "), justify="left" if column == "data set" else "right")
        for name, own in by_set.items():
            if name == AVERAGE:
                table.add_section()
            shares = [percent([row["top1"] for row in own[m]]) if m in own else "" for m in methods]
            tuned = own["rar"]
            recall = percent([row["recall_at_k"] for row in tuned])
            table.add_row(name, *shares, recall, _given_hit(tuned), _moved(tuned))
        tables.append(table)
    return tables


def gain_lines(results: dict) -> list[str]:
    """What the tuned ranker gains, in words and per cent; of several data sets, on average."""
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
    """The paper's figures beside measured ones. Encoder and ranker may be others."""
    return [
        f"{row['dataset']}, {describe_memory(row['task'], row['shots'])}: {row['method']} {row['figure']} {row['measured']:.1f}, "
        f"paper{' with ' + row['ranker'] if 'ranker' in row else ''} {row['published']:.1f}, "
        f"difference {row['difference']:+.1f}"
        for row in results.get("published", [])
    ]


def leak_lines(results: dict) -> list[str]:
    """Copies and near-duplicates of evaluated images, where there are any."""
    found = results.get("leaks", {})
    by_set = found if "datasets" in results else {results["dataset"]: found}
    lines = []
    for name, leaks in by_set.items():
        for part, own in leaks.get("parts", {}).items():
            counts = [f"{own['exact']} of {leaks['queries']} evaluated images stand in {part} byte for byte"] * bool(
                own["exact"]
            )
            if own["near"]:
                counts.append(
                    f"{own['near']} of {leaks['near_queries']} have a near-duplicate in {part} "
                    f"(cosine {leaks['near_from']} or more)"
                )
            lines += [f"leaks, {name}: {', '.join(counts)}; results.json lists pairs"] if counts else []
    return lines


def _outcomes(rows: list[dict]) -> list[str]:
    """How replies were read, where any needed more than reading."""
    totals: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        if row["dataset"] != AVERAGE:
            totals[row["method"]].update(row.get("outcomes", {}))
    return [
        f"{method}: replies {', '.join(f'{name} {count}' for name, count in sorted(total.items()))}"
        for method, total in totals.items()
        if set(total) - {"ok"}
    ]


def _places(results: dict) -> list[str]:
    """Accuracy by the truth's place in the order shown, where there is one."""
    lines = []
    for method, places in results.get("by_place", {}).items():
        shares = [row["top1"] for row in places.get("shown", [])]
        if shares:
            metrics = ", ".join("-" if share is None else f"{100 * share:.1f}" for share in shares)
            lines.append(f"{method}: top-1 % by the place at which the truth is shown: {metrics}")
    return lines


def _gates(results: dict) -> list[str]:
    return [
        f"{kind}: the gate asks about {100 * gate['share_asked']:.0f} % of the images; "
        "top-1 % with 0, 10, … 100 % ranked: " + ", ".join(f"{100 * point['top1']:.1f}" for point in gate["curve"])
        for kind, gate in results.get("gate", {}).items()
    ]


def _unknown(results: dict) -> list[str]:
    found = results.get("unknown")
    if not found:
        return []
    by_signal = ", ".join(f"{name} {value:.3f}" for name, value in found["auroc"].items())
    return [
        f"unknown classes: AUROC {by_signal}; by {found['signal']}, {100 * found['known_accepted']:.1f} % of "
        f"known images are accepted and {100 * found['unknown_refused']:.1f} % of unknown ones refused"
    ]
