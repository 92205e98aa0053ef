"""Report page of one or several evaluations: a single HTML file that needs no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from data_prep.core.files import write_text
from eval.metrics.diagnostics import most_confused
from eval.metrics.further import columns_of, further_lines
from eval.report.browser import browser_data
from eval.report.choice import calibration_rows, source_rows, used_methods
from eval.report.curves import draw_calibration, draw_choices, draw_curves
from eval.report.headline import headline
from eval.report.index import link_index
from eval.report.lines import alone_lines, elsewhere_lines, gain_lines, leak_lines, note_lines, published_lines
from eval.report.reading import Evaluated, read_evaluations
from eval.report.sheets import (
    TITLES,
    ClassRow,
    class_data,
    class_rows,
    used_by_cases,
    write_classes_sheet,
    write_predictions_sheet,
)
from eval.report.table import (
    COLUMNS,
    HALF_COLUMNS,
    by_memory,
    by_setting,
    dataset_cells,
    half_cells,
    interval_bounds,
    method_cells,
)
from eval.report.wording import describe_k, describe_memory, order_of_kind


def _groups(evaluations: list[Evaluated]) -> list[dict]:
    """Makes a group per run, task and shots, in order of shots, with a line per method averaged over seeds."""
    groups = []
    for evaluated in evaluations:
        results = evaluated.results
        memories = sorted(by_memory(results).items(), key=lambda item: item[0][1])
        intervals, used = interval_bounds(results), used_methods(results)
        for (task, shots), by_method in memories:
            lines = [
                {
                    "method": method,
                    "used": method == used.get((task, shots)),
                    "cells": list(
                        zip(COLUMNS, method_cells(rows, intervals.get((task, shots, method), "")), strict=True)
                    ),
                }
                for method, rows in by_method.items()
            ]
            run = f"{evaluated.name}, " if len(evaluations) > 1 else ""
            groups.append({"memory": run + describe_memory(task, shots, results), "lines": lines})
    return groups


def _further(evaluations: list[Evaluated], combined: dict | None) -> list[dict]:
    """Makes a table of the metrics that ``eval.metrics`` added, for each evaluation that has any, or for all."""
    named = [("", combined)] if combined else [(evaluated.name, evaluated.results) for evaluated in evaluations]
    return [
        {
            "caption": name if len(named) > 1 else "",
            "columns": columns_of(results),
            "groups": further_lines(results, partial(describe_memory, results=results)),
        }
        for name, results in named
        if columns_of(results)
    ]


def _by_dataset(results: dict) -> list[dict]:
    """Makes a table of top-1 by data set and method per task and number of shots, the average last."""
    tables = []
    for setting in by_setting(results["rows"]):
        columns, cells = dataset_cells(results["rows"], setting)
        tables.append({"caption": describe_memory(*setting, results), "columns": columns, "lines": cells})
    return tables


def _halves(results: dict) -> list[dict]:
    """Makes a table of base, new and harmonic mean by data set and method per task and number of shots."""
    return [
        {"caption": describe_memory(*setting, results), "groups": by_set}
        for setting, by_set in half_cells(results).items()
    ]


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


def render_page(
    evaluations: list[Evaluated],
    combined: dict | None = None,
    classes: dict[tuple[str, int], list[ClassRow]] | None = None,
    index: str = "",
) -> str:
    """Renders the page as HTML: one evaluation with a browser of its predictions, or several compared, without.

    Args:
        evaluations: One or several.
        combined: Their combined ``results.json`` where they are of several data sets.
        classes: Of one evaluation, the rows of its classes from ``class_rows``.
        index: Address of the index of the run's evaluations; empty for none.
    """
    single = evaluations[0] if len(evaluations) == 1 and not combined else None
    results = combined or evaluations[0].results
    environment = Environment(loader=PackageLoader("eval.report"), autoescape=select_autoescape(default=True))
    return environment.get_template("page.html.j2").render(
        title=f"Retrieve and rank: {', '.join(evaluated.name for evaluated in evaluations)}",
        subjects=_subjects([combined] if combined else [evaluated.results for evaluated in evaluations]),
        strips=_headlines(evaluations, combined),
        by_dataset=_by_dataset(combined) if combined else [],
        halves=_halves(combined) if combined and "base_to_new" in combined else [],
        half_columns=HALF_COLUMNS,
        published=_describe(evaluations, combined, published_lines),
        elsewhere=_describe(evaluations, combined, elsewhere_lines),
        notes=list(dict.fromkeys(_describe(evaluations, combined, note_lines))),
        warnings=[
            line for lines_of in (alone_lines, leak_lines) for line in _describe(evaluations, combined, lines_of)
        ],
        single=single,
        index=index,
        columns=COLUMNS,
        groups=_groups(evaluations),
        further=_further(evaluations, combined),
        gains=_describe(evaluations, combined, gain_lines),
        sources=source_rows(results) if single or combined else [],
        choices=draw_choices(results) if single else [],
        calibrated=calibration_rows(results) if single or combined else [],
        reliability=draw_calibration(results) if single else [],
        plots=draw_curves(evaluations),
        outcomes=_outcomes(evaluations),
        confused=most_confused(single.all_cases, 20) if single else [],
        classes=_class_table(single, classes) if single and classes else None,
        data=browser_data(single) if single else None,
    )


def _class_table(evaluated: Evaluated, classes: dict[tuple[str, int], list[ClassRow]]) -> dict:
    """Makes the data of the table of classes, with the memories in words and the method whose errors are counted."""
    used = used_by_cases(evaluated.results)
    memories = [
        [f"{task}-{shots}", describe_memory(task, shots, evaluated.results), TITLES[used.get((task, shots), "rar")]]
        for task, shots in sorted(classes, key=lambda memory: order_of_kind(f"{memory[0]}-{memory[1]}"))
    ]
    return class_data(classes) | {"memories": memories}


def write_pages(folder: Path, evaluated: Evaluated | None = None) -> list[Path]:
    """Writes ``report.html``, ``predictions.csv`` and ``classes.csv`` into an evaluation's folder.

    Args:
        folder: The evaluation's folder.
        evaluated: What is in it; None: it is read.

    Returns:
        list[Path]: The files.
    """
    if evaluated is None:
        ((_, evaluated),) = read_evaluations(folder)
    rows = class_rows(evaluated)
    page = folder / "report.html"
    write_text(page, render_page([evaluated], classes=rows, index=link_index(folder)))
    return [page, write_predictions_sheet(folder, evaluated), write_classes_sheet(folder, rows)]
