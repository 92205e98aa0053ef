"""Report page of one or several evaluations: a single HTML file that needs no network."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from data_prep.core.files import write_text
from data_prep.core.progress import progress_bar
from eval.metrics.accuracy import percent
from eval.metrics.diagnostics import STATUSES, Case, most_confused
from eval.report.curves import draw_curves
from eval.report.reading import Evaluated, read_evaluations
from eval.report.table import (
    METHODS,
    by_setting,
    describe_memory,
    gain_lines,
    interval_bounds,
    leak_lines,
    published_lines,
)
from eval.report.thumbnails import thumbnail

MAX_CASES = 5000
"""Maximum number of predictions on a page; with thumbnails they take less than 20 MB."""
_QUERY_PIXELS, _CLASS_PIXELS = 72, 48


def _table(evaluations: list[Evaluated]) -> list[dict]:
    """Makes a line per run, task, shots and method, averaged over seeds, in order of shots."""
    lines = []
    for evaluated in evaluations:
        groups: dict[tuple, list[dict]] = defaultdict(list)
        for row in sorted(evaluated.results["rows"], key=lambda row: row["shots"]):
            groups[row["task"], row["shots"], row["method"]].append(row)
        intervals = interval_bounds(evaluated.results)
        for (task, shots, method), rows in groups.items():
            top1, *others = (percent([row[key] for row in rows]) for key in ("top1", "top5", "recall_at_k"))
            metrics = [top1, intervals.get((task, shots, method), ""), *others]
            given_hit = [row["top1_given_hit"] for row in rows if row.get("top1_given_hit") is not None]
            counts = [
                f"{np.mean([row[key] for row in rows]):.0f}" if given_hit else "" for key in ("corrected", "broken")
            ]
            lines.append(
                {
                    "run": evaluated.name,
                    "task": task.replace("_", " "),
                    "shots": shots,
                    "method": method,
                    "figures": [*metrics, percent(given_hit) if given_hit else "", *counts],
                    "images": rows[0]["n"],
                    "seeds": len(rows),
                }
            )
    return lines


def _by_dataset(results: dict) -> list[dict]:
    """Makes a table of top-1 by data set and method per task and number of shots, the average last."""
    tables = []
    for (task, shots), by_set in by_setting(results["rows"]).items():
        methods = [method for method in METHODS if any(method in of_set for of_set in by_set.values())]
        lines = {
            name: [percent([row["top1"] for row in of_set[m]]) if m in of_set else "" for m in methods]
            + [percent([row["recall_at_k"] for row in of_set["rar"]])]
            for name, of_set in by_set.items()
        }
        tables.append(
            {"caption": describe_memory(task, shots), "columns": [*methods, f"recall@{results['k']}"], "lines": lines}
        )
    return tables


def _describe(evaluations: list[Evaluated], combined: dict | None, lines_of: Callable[[dict], list[str]]) -> list[str]:
    """Describes results in lines of text, each prefixed with its run where there are several."""
    if combined or len(evaluations) == 1:
        return lines_of(combined or evaluations[0].results)
    return [f"{evaluated.name}, {line}" for evaluated in evaluations for line in lines_of(evaluated.results)]


def _outcomes(evaluations: list[Evaluated]) -> list[dict]:
    """Counts replies by parse outcome."""
    lines = []
    for evaluated in evaluations:
        counts = Counter(case.outcome for case in evaluated.all_cases)
        lines += [
            {"run": evaluated.name, "outcome": outcome, "count": n, "share": f"{100 * n / counts.total():.1f}"}
            for outcome, n in counts.most_common()
        ]
    return lines


def browser_data(evaluated: Evaluated, most: int = MAX_CASES) -> dict:
    """Collects the data of the page's prediction browser: the first seed of each task and number of shots.

    Args:
        evaluated: One evaluation.
        most: Maximum number of cases; of more, evenly spaced ones are kept in every setting.

    Returns:
        dict: ``names`` with ``class_pictures``, ``keys`` with ``pictures``, ``settings``, ``cases`` that index into
        them, and ``total``, the number of all cases.
    """
    first: dict[tuple[str, int], list[Case]] = {}
    for (task, shots, _), cases in evaluated.cases.items():
        first.setdefault((task, shots), cases)
    total = sum(len(cases) for cases in first.values())
    per_setting = max(1, most // len(first))
    names: dict[str, int] = {}
    keys: dict[str, int] = {}
    listed = []
    for setting, cases in enumerate(first.values()):
        indices = np.unique(np.linspace(0, len(cases) - 1, min(per_setting, len(cases))).round().astype(int))
        for case in (cases[index] for index in indices):
            for name in (case.truth, *case.candidates):
                names.setdefault(name, len(names))
            listed.append(
                {
                    "setting": setting,
                    "picture": keys.setdefault(case.key, len(keys)),
                    "truth": names[case.truth],
                    "candidates": [names[name] for name in case.candidates],
                    "tuned": [names[name] for name in case.tuned],
                    "untuned": names[case.untuned[0]],
                    "probabilities": [round(p, 3) for p in case.probabilities],
                    "status": case.status,
                    "outcome": case.outcome,
                    "reply": case.reply,
                }
            )
    paths, by_class = evaluated.pictures["images"], evaluated.pictures["classes"]
    return {
        "names": list(names),
        "class_pictures": [by_class.get(n) and thumbnail(Path(by_class[n]), _CLASS_PIXELS) for n in names],
        "keys": list(keys),
        "pictures": [
            paths.get(key) and thumbnail(Path(paths[key]), _QUERY_PIXELS)
            for key in progress_bar("making thumbnails", keys)
        ],
        "settings": [
            f"{task.replace('_', ' ')}, {shots} shots" if shots else task.replace("_", " ") for task, shots in first
        ],
        "cases": listed,
        "total": total,
    }


def render_page(evaluations: list[Evaluated], combined: dict | None = None) -> str:
    """Renders the page as HTML: one evaluation with a browser of its predictions, or several compared, without.

    Args:
        evaluations: One or several.
        combined: Their combined ``results.json`` where they are of several data sets.
    """
    single = evaluations[0] if len(evaluations) == 1 and not combined else None
    environment = Environment(loader=PackageLoader("eval.report"), autoescape=select_autoescape(default=True))
    return environment.get_template("page.html.j2").render(
        title=f"Retrieve and rank: {', '.join(evaluated.name for evaluated in evaluations)}",
        results=combined or evaluations[0].results,
        by_dataset=_by_dataset(combined) if combined else [],
        published=_describe(evaluations, combined, published_lines),
        leaks=_describe(evaluations, combined, leak_lines),
        single=single,
        table=_table(evaluations),
        gains=_describe(evaluations, combined, gain_lines),
        plots=draw_curves(evaluations),
        outcomes=_outcomes(evaluations),
        confused=most_confused(single.all_cases, 20) if single else [],
        statuses=STATUSES,
        data=browser_data(single) if single else None,
    )


def write_page(folder: Path) -> Path:
    """Writes ``report.html`` into an evaluation's folder."""
    ((_, evaluated),) = read_evaluations(folder)
    page = folder / "report.html"
    write_text(page, render_page([evaluated]))
    return page
