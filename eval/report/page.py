"""Report page of one or several evaluations: a single HTML file that needs no network."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from data_prep.core.files import write_text
from eval.metrics.accuracy import percent
from eval.metrics.diagnostics import most_confused
from eval.report.browser import browser_data
from eval.report.choice import calibration_rows, source_rows
from eval.report.curves import draw_calibration, draw_choices, draw_curves
from eval.report.headline import headline, used_methods
from eval.report.lines import alone_lines, gain_lines, leak_lines, published_lines
from eval.report.reading import Evaluated, read_evaluations
from eval.report.table import METHODS, by_setting, interval_bounds
from eval.report.wording import describe_k, describe_memory, order_of_kind


def _groups(evaluations: list[Evaluated]) -> list[dict]:
    """Makes a group per run, task and shots, in order of shots, with a line per method averaged over seeds."""
    groups = []
    for evaluated in evaluations:
        by_memory: dict[tuple, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
        for row in sorted(evaluated.results["rows"], key=lambda row: row["shots"]):
            by_memory[row["task"], row["shots"]][row["method"]].append(row)
        intervals, used = interval_bounds(evaluated.results), used_methods(evaluated.results)
        for (task, shots), by_method in by_memory.items():
            lines = [
                {
                    "method": method,
                    "used": method == used.get((task, shots)),
                    "figures": _figures(rows, intervals.get((task, shots, method), "")),
                    "images": rows[0]["n"],
                    "seeds": len(rows),
                }
                for method, rows in by_method.items()
            ]
            run = f"{evaluated.name}, " if len(evaluations) > 1 else ""
            groups.append({"memory": run + describe_memory(task, shots), "lines": lines})
    return groups


def _figures(rows: list[dict], interval: str) -> list[str]:
    """Formats top-1 with its interval, top-5, recall@k, top-1 given a hit, and images corrected and broken."""
    top1, *others = (percent([row[key] for row in rows]) for key in ("top1", "top5", "recall_at_k"))
    given_hit = [row["top1_given_hit"] for row in rows if row.get("top1_given_hit") is not None]
    counts = [f"{np.mean([row[key] for row in rows]):.0f}" if given_hit else "" for key in ("corrected", "broken")]
    return [top1, interval, *others, percent(given_hit) if given_hit else "", *counts]


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
        tables.append({"caption": describe_memory(task, shots), "columns": [*methods, "recall@k"], "lines": lines})
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


def _headlines(evaluations: list[Evaluated], combined: dict | None) -> list[dict]:
    """Makes the strips at the top of the page: of several runs, named after the run and next to each other."""
    if combined or len(evaluations) == 1:
        return headline(combined or evaluations[0].results)
    strips = [
        strip | {"memory": f"{evaluated.name}, {strip['memory']}"}
        for evaluated in evaluations
        for strip in headline(evaluated.results)
    ]
    return sorted(strips, key=lambda strip: order_of_kind(strip["setting"]))


def _subjects(all_results: list[dict]) -> str:
    """Describes what was evaluated, once where several runs have it in common."""
    texts = [f"{r['dataset']}, {r['split']} split, ranked by {r['mode']}, {describe_k(r)}" for r in all_results]
    return "; ".join(dict.fromkeys(texts))


def render_page(evaluations: list[Evaluated], combined: dict | None = None) -> str:
    """Renders the page as HTML: one evaluation with a browser of its predictions, or several compared, without.

    Args:
        evaluations: One or several.
        combined: Their combined ``results.json`` where they are of several data sets.
    """
    single = evaluations[0] if len(evaluations) == 1 and not combined else None
    results = combined or evaluations[0].results
    environment = Environment(loader=PackageLoader("eval.report"), autoescape=select_autoescape(default=True))
    return environment.get_template("page.html.j2").render(
        title=f"Retrieve and rank: {', '.join(evaluated.name for evaluated in evaluations)}",
        subjects=_subjects([combined] if combined else [evaluated.results for evaluated in evaluations]),
        strips=_headlines(evaluations, combined),
        by_dataset=_by_dataset(combined) if combined else [],
        published=_describe(evaluations, combined, published_lines),
        warnings=[
            line for lines_of in (alone_lines, leak_lines) for line in _describe(evaluations, combined, lines_of)
        ],
        single=single,
        groups=_groups(evaluations),
        gains=_describe(evaluations, combined, gain_lines),
        sources=source_rows(results) if single or combined else [],
        choices=draw_choices(results) if single else [],
        calibrated=calibration_rows(results) if single or combined else [],
        reliability=draw_calibration(results) if single else [],
        plots=draw_curves(evaluations),
        outcomes=_outcomes(evaluations),
        confused=most_confused(single.all_cases, 20) if single else [],
        data=browser_data(single) if single else None,
    )


def write_page(folder: Path, evaluated: Evaluated | None = None) -> Path:
    """Writes ``report.html`` into an evaluation's folder.

    Args:
        folder: The evaluation's folder.
        evaluated: What is in it; None: it is read.
    """
    if evaluated is None:
        ((_, evaluated),) = read_evaluations(folder)
    page = folder / "report.html"
    write_text(page, render_page([evaluated]))
    return page
