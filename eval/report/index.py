"""Index of a run's evaluations: a table on the console and a page with links, ``RUN/eval/index.html``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from data_prep.core.errors import UserError
from data_prep.core.files import write_text
from data_prep.core.results_file import RESULTS, read_results
from eval.metrics.summary import AVERAGE
from eval.report.choice import best_retriever
from eval.report.console import Group, print_table
from eval.report.predictions import PREDICTIONS
from eval.report.wording import describe_memory
from rar_train.engine.result_folder import format_changes

log = logging.getLogger(__name__)

INDEX = "index.html"
"""Name of the page, in the run's folder of evaluations."""

COLUMNS = ("retriever", "untuned", "tuned", "fused")
"""Titles of the headline's top-1: the best retriever row, and the rankers."""
_RANKERS = ("rar_untuned", "rar", "rar_fused")
_SHOWN = 10


@dataclass(frozen=True)
class Entry:
    """One evaluation of a run.

    Attributes:
        name: Name of its folder.
        when: When its models were run.
        about: Split, mode and, of several data sets, their number.
        changes: Settings that differ from the run's own, such as ``k=10``.
        memory: The memory of the figures: the most shots, or what there is.
        top1: In per cent, by ``COLUMNS``; empty text where there is none. A star: below the retriever.
    """

    name: str
    when: datetime
    about: str
    changes: str
    memory: str
    top1: tuple[str, ...]

    @property
    def minute(self) -> str:
        """When its models were run, to the minute."""
        return f"{self.when:%Y-%m-%d %H:%M}"


def find_run(folder: Path) -> Path | None:
    """Returns the run of an evaluation's folder, which may be that of one of several data sets; None if in no run."""
    parents = list(folder.resolve().parents)[:2]
    return next((parent.parent for parent in parents if parent.name == "eval"), None)


def link_index(folder: Path) -> str:
    """Returns the address of the index, relative to a page in an evaluation's folder; empty in no run."""
    run = find_run(folder)
    return "" if run is None else "../" * len(folder.resolve().relative_to(run / "eval").parts) + INDEX


def list_evaluations(run: Path) -> list[Entry]:
    """Lists the evaluations in a run's folder, the newest first; damaged ones are left out, and logged."""
    entries = []
    for path in sorted((run / "eval").glob(f"*/{RESULTS}")):
        try:
            results = read_results(path.parent)
        except UserError as error:
            log.warning("%s; left out of the index", error)
            continue
        if "by_place" in results or "datasets" in results:
            entries.append(_make_entry(path.parent, results))
    return sorted(entries, key=lambda entry: (entry.when, entry.name), reverse=True)


def _make_entry(folder: Path, results: dict) -> Entry:
    parts = [part for part in results["summary"] if part.get("dataset", AVERAGE) == AVERAGE]
    part = max(parts, key=lambda part: (part["task"] == "few_shot", part["shots"], part["task"] == "whole_set"))
    means = {method: metrics["mean"] for method, metrics in part["methods"].items()}
    retriever = means[best_retriever(part)]
    top1 = [f"{100 * retriever:.1f}"]
    for method in _RANKERS:
        below = "*" if method != "rar_untuned" and means.get(method, 1) < retriever else ""
        top1.append(f"{100 * means[method]:.1f}{below}" if method in means else "")
    files = [folder / PREDICTIONS, *(folder / name / PREDICTIONS for name in results.get("datasets", ()))]
    files = [path for path in files if path.exists()] or [folder / RESULTS]  # the first are not changed by rescoring
    when = max(path.stat().st_mtime for path in files)
    about = f"{results['split']}, {results['mode']}"
    if "base_to_new" in results:
        about += ", H of base and new"
        about += f", {len(results['datasets']) // 2} data sets" * (len(results["datasets"]) > 2)
    elif "datasets" in results:
        about += f", {len(results['datasets'])} data sets"
    return Entry(
        folder.name,
        datetime.fromtimestamp(when),
        about,
        " ".join(format_changes(results.get("evaluation", {}).get("changes", {}))),
        describe_memory(part["task"], part["shots"], results),
        tuple(top1),
    )


def print_index(run: Path, most: int | None = None) -> None:
    """Prints a row per evaluation of a run, the newest first; nothing where there is none.

    Args:
        run: The run's folder.
        most: Maximum number of rows, with a line that counts the others; None for all.
    """
    entries = list_evaluations(run)
    if not entries:
        return
    columns = ("evaluation", *COLUMNS, "memory", "settings", "when", "split and mode")
    rows = [(e.name, *e.top1, e.memory, e.changes, e.minute, e.about) for e in entries[:most]]
    used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    title = f"evaluations of {run}, top-1 %"
    if any("*" in row[3] + row[4] for row in rows):
        title += " (*: below the retriever)"
    if len(entries) > len(rows):
        title += f", the newest {len(rows)} of {len(entries)}; all: python -m eval.report {run}"
    optional = ("split and mode", "when")
    table = Group(rows=[[row[index] for index in used] for row in rows])
    text = ("memory", "settings", "when", "split and mode")
    print_table(title, [columns[index] for index in used], [table], optional, text)


def print_newest(run: Path) -> None:
    """Prints the newest evaluations of a run where it has several."""
    if len(list_evaluations(run)) > 1:
        print_index(run, _SHOWN)


def write_index(run: Path) -> Path:
    """Writes the page with a row and a link for each evaluation of a run."""
    environment = Environment(loader=PackageLoader("eval.report"), autoescape=select_autoescape(default=True))
    html = environment.get_template("index.html.j2").render(
        title=f"Evaluations of {run.resolve().name}", entries=list_evaluations(run), columns=COLUMNS
    )
    write_text(run / "eval" / INDEX, html)
    return run / "eval" / INDEX
