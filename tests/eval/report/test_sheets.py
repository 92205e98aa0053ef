"""CSV files for spreadsheets: what is written is what is read, and no cell runs as a formula."""

from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.diagnostics import Case
from eval.report.page import write_pages
from eval.report.reading import Evaluated, read_evaluations
from eval.report.sheets import class_data, class_rows, csv_text
from tests.eval.evaluation_folder import CHOICES, NAMES, write_evaluation

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.lists(cells, min_size=2, max_size=3), max_size=4))
def test_text_is_read_as_it_was_written_and_never_begins_like_a_formula(rows):
    read = list(csv.reader(io.StringIO("".join(csv_text(rows)), newline="")))
    assert len(read) == len(rows)
    for row, cells in zip(rows, read, strict=True):
        for text, cell in zip(row, cells, strict=True):
            assert cell in (text, f"'{text}") and not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def case(truth: str, candidates: str, tuned: str, untuned: str = "", fused: str = "") -> Case:
    """Makes a case whose classes are letters."""
    orders = [tuple(candidates), (), tuple(untuned or tuned), tuple(tuned)]
    return Case(f"{truth}{candidates}", truth, *orders, (), "ok", "", tuple(fused))


def test_a_class_has_its_images_top1_by_method_and_what_it_is_taken_for():
    of_seed = [case("a", "bac", "cab"), case("a", "abc", "cba"), case("b", "bca", "bac")]
    cases = {("few_shot", 4, seed): of_seed for seed in (1, 2)}
    part = {"task": "few_shot", "shots": 4, "methods": {}}
    rows = class_rows(Evaluated("run", {"dataset": "x", "summary": [part]}, cases, {"images": {}}))
    worst, best = rows["few_shot", 4]
    assert (worst.name, worst.images, worst.confused, worst.confusions) == ("a", 2, "c", 4)
    assert worst.top1 == {"retriever": 0.5, "rar_untuned": 0.0, "rar": 0.0}
    assert (best.name, best.images, best.confused, best.confusions) == ("b", 1, None, 0)
    data = class_data(rows)
    assert data["columns"] == ["retriever", "untuned", "tuned"]
    assert data["rows"]["few_shot-4"] == [[0, 2, 50.0, 0.0, 0.0, 1, 4], [2, 1, 100.0, 100.0, 100.0, None, 0]]


def test_the_files_of_an_evaluation_have_a_row_per_class_and_per_image(tmp_path):
    folder = write_evaluation(tmp_path, True, CHOICES)
    _, predictions, classes = write_pages(folder)
    ((_, evaluated),) = read_evaluations(folder)
    with open(predictions, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(evaluated.all_cases) == 30
    assert {row["path"] for row in rows} == {"shield.png", ""}  # one picture for all but the last image
    assert rows[0]["truth"] == NAMES[0] and rows[0]["fused"] == NAMES[1]
    with open(classes, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["task"], row["shots"]) for row in rows} == {("zero_shot", "0"), ("few_shot", "1"), ("few_shot", "4")}
    assert {row["class"] for row in rows} == {case.truth for case in evaluated.all_cases}
    assert sum(int(row["images"]) for row in rows) == 3 * 6  # of each memory, whatever its seeds
