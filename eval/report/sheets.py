"""CSV files for spreadsheets: every image's predictions, and a row per class."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.files import write_text
from eval.metrics.diagnostics import Case
from eval.report.choice import RETRIEVER, used_methods
from eval.report.reading import Evaluated

PREDICTIONS_SHEET, CLASSES_SHEET = "predictions.csv", "classes.csv"
"""Names of the files, next to ``results.json``."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_ROWS_AT_ONCE = 4096
TITLES = {RETRIEVER: "retriever", "rar_untuned": "untuned", "rar": "tuned", "rar_fused": "fused"}
"""Titles of columns by method."""


def neutralise(text: str) -> str:
    """Returns the text of a cell so that a spreadsheet shows it rather than running it as a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def format_cell(value: object) -> str:
    """Formats a value as the text of a cell; see ``neutralise``."""
    if isinstance(value, str):
        return neutralise(value)
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(f"{number:g}" for number in value)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def csv_text(rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Formats rows as the text of a CSV file, in pieces."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, row in enumerate(rows, 1):
        cells = [format_cell(value) for value in row]
        if any("\r" in cell for cell in cells):  # which the writer quotes only where it ends its own lines
            text.write(",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n")
        else:
            writer.writerow(cells)
        if number % _ROWS_AT_ONCE == 0:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def predicted(case: Case, method: str) -> str | None:
    """Returns the class that a method puts first; None where it was not run."""
    order = {RETRIEVER: case.candidates, "rar_untuned": case.untuned, "rar": case.tuned, "rar_fused": case.fused}
    return order[method][0] if order[method] else None


def write_predictions_sheet(folder: Path, evaluated: Evaluated) -> Path:
    """Writes a row per image and memory, with what the retriever and each ranker put first."""
    paths = evaluated.paths
    columns = ("path", "key", "task", "shots", "seed", "truth", *TITLES.values(), "probability", "status", "outcome")

    def rows() -> Iterator[Sequence[object]]:
        yield columns
        for setting, cases in evaluated.cases.items():
            for case in cases:
                names = [predicted(case, method) for method in TITLES]
                head = (paths.get(case.key, ""), case.key, *setting, case.truth)
                yield (*head, *names, case.confidence, case.status, case.outcome)

    write_text(folder / PREDICTIONS_SHEET, csv_text(rows()))
    return folder / PREDICTIONS_SHEET


@dataclass(frozen=True)
class ClassRow:
    """A class's results with one kind of memory, over its seeds.

    Attributes:
        name: The class.
        images: Number of its images.
        top1: By method, as a share of its images, 0 to 1: ``retriever`` (its first candidate), ``rar_untuned``, ``rar``
            and, with fusion, ``rar_fused``.
        confused: The class that its images are most often taken for by the method that is used; None where that is
            never wrong.
        confusions: How often, as a number of images of all seeds.
    """

    name: str
    images: int
    top1: dict[str, float]
    confused: str | None
    confusions: int


def used_by_cases(results: dict) -> dict[tuple[str, int], str]:
    """Returns by task and shots the method that is used, ``retriever`` for any row of the retriever's."""
    return {memory: method if method in TITLES else RETRIEVER for memory, method in used_methods(results).items()}


def class_rows(evaluated: Evaluated) -> dict[tuple[str, int], list[ClassRow]]:
    """Computes a row per class by task and shots: the class with the lowest top-1 of the used method first."""
    by_memory: dict[tuple[str, int], list[list[Case]]] = defaultdict(list)
    for (task, shots, _), cases in evaluated.cases.items():
        by_memory[task, shots].append(cases)
    used = used_by_cases(evaluated.results)
    return {memory: _class_rows(of_seeds, used.get(memory, "rar")) for memory, of_seeds in by_memory.items()}


def _class_rows(of_seeds: list[list[Case]], used: str) -> list[ClassRow]:
    methods = [method for method in TITLES if predicted(of_seeds[0][0], method) is not None]
    totals: Counter[str] = Counter()
    hits: dict[str, Counter[str]] = {method: Counter() for method in methods}
    mistaken: dict[str, Counter[str]] = defaultdict(Counter)
    for case in (case for cases in of_seeds for case in cases):
        totals[case.truth] += 1
        for method in methods:
            name = predicted(case, method)
            if name == case.truth:
                hits[method][case.truth] += 1
            elif method == used and name is not None:
                mistaken[case.truth][name] += 1
    rows = []
    for name, total in totals.items():
        top1 = {method: hits[method][name] / total for method in methods}
        ((confused, count),) = mistaken[name].most_common(1) if name in mistaken else ((None, 0),)
        rows.append(ClassRow(name, total // len(of_seeds), top1, confused, count))
    return sorted(rows, key=lambda row: (row.top1.get(used, 0.0), -row.images, row.name))


def write_classes_sheet(folder: Path, rows: dict[tuple[str, int], list[ClassRow]]) -> Path:
    """Writes a row per memory and class; accuracies are shares, 0 to 1."""
    head = ("task", "shots", "class", "images", *(f"top1_{title}" for title in TITLES.values()))

    def lines() -> Iterator[Sequence[object]]:
        yield (*head, "most_confused_with", "confusions")
        for memory, of_memory in rows.items():
            for row in of_memory:
                shares = [round(row.top1[method], 6) if method in row.top1 else None for method in TITLES]
                yield (*memory, row.name, row.images, *shares, row.confused, row.confusions)

    write_text(folder / CLASSES_SHEET, csv_text(lines()))
    return folder / CLASSES_SHEET


def class_data(rows: dict[tuple[str, int], list[ClassRow]]) -> dict:
    """Makes the data of the page's table of classes: names once, and rows as short lists that index into them.

    Returns:
        dict: ``names``; ``columns``, titles of the methods; and ``rows`` by kind of memory, such as ``few_shot-4``: the
        name's number, images, top-1 in per cent by column, the number of the name that it is most confused with or
        null, and how often.
    """
    numbers: dict[str, int] = {}
    present = {method for of_memory in rows.values() for method in of_memory[0].top1}
    methods = [method for method in TITLES if method in present]
    listed = {}
    for (task, shots), of_memory in rows.items():
        listed[f"{task}-{shots}"] = [
            [
                numbers.setdefault(row.name, len(numbers)),
                row.images,
                *(round(100 * row.top1[method], 1) if method in row.top1 else None for method in methods),
                None if row.confused is None else numbers.setdefault(row.confused, len(numbers)),
                row.confusions,
            ]
            for row in of_memory
        ]
    return {"names": list(numbers), "columns": [TITLES[method] for method in methods], "rows": listed}
