"""Console tables and lines of results whose metrics can be computed by hand."""

from __future__ import annotations

import pytest

from eval.metrics.summary import average_rows, summarise
from eval.report.table import leak_lines, print_results, published_lines
from tests.eval.by_hand import CLASSES, HITS, hits_by_hand, row, rows_by_hand


@pytest.fixture
def rows() -> list[dict]:
    return rows_by_hand()


@pytest.fixture
def hits() -> dict:
    return hits_by_hand()


def test_the_table_shows_every_method_in_per_cent_and_the_gains_in_points(rows, hits, capsys):
    rows.append(row("ranker_alone", 1, 0.25))
    summary = summarise([(hits, CLASSES)], 200)
    head = {"dataset": "armory", "split": "test", "mode": "letters", "k": 5}
    print_results(head | {"rows": rows, "summary": summary})
    printed = capsys.readouterr().out
    line = next(text for text in printed.splitlines() if " rar " in text)
    assert "87.5 ± 17.7" in line and "100.0 ± 0.0" in line
    assert all(method in printed for method in (*HITS, "ranker_alone"))
    assert "few_shot 4: rar - clip_zero_shot = +37.5 points" in printed
    assert "few_shot 4: rar - rar_untuned = +50.0 points" in printed


def test_the_table_shows_what_the_ranker_changed_and_the_lines_below_the_other_metrics(rows, hits, capsys):
    staged = {"top1_given_hit": 0.91, "corrected": 17, "broken": 3, "outcomes": {"ok": 3, "unreadable": 1}}
    rows = [row | staged if row["method"] == "rar" else row for row in rows]
    position = {"place": 1, "n": 4, "top1": 0.625, "chosen": 0.5}
    curve = [{"share": tenth / 10, "top1": 0.5 + tenth / 100} for tenth in range(11)]
    details = {
        "by_place": {"rar": {"shown": [position, position | {"top1": None}]}},
        "gate": {"few_shot-4": {"by": "margin", "share_asked": 0.3, "curve": curve}},
        "unknown": {"auroc": {"score": 0.812}, "signal": "score", "known_accepted": 0.7, "unknown_refused": 0.8},
    }
    head = {"dataset": "armory", "split": "test", "mode": "generate", "k": 5}
    print_results(head | {"rows": rows, "summary": summarise([(hits, CLASSES)], 50)} | details)
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("91.0 ± 0.0", "17 / 3", "rar: replies ok 6, unreadable 2", "true class is shown: 62.5, -"):
        assert text in printed
    for text in (
        "sends 30 % of the images to the ranker",
        "ranked: 50.0, 51.0",
        "AUROC score 0.812",
        "70.0 % of known images",
    ):
        assert text in printed


def test_several_data_sets_have_a_line_each_and_one_for_the_average(rows, hits, capsys):
    second = [row | {"dataset": "dtd", "top1": 0.0} for row in rows]
    summary = [{"dataset": "average"} | part for part in summarise([(hits, CLASSES)] * 2, 50)]
    head = {"dataset": "armory, dtd", "datasets": ["armory", "dtd"], "split": "test", "mode": "letters", "k": 5}
    print_results(head | {"rows": rows + second + average_rows([rows, second]), "summary": summary})
    printed = capsys.readouterr().out
    line = {name: next(t for t in printed.splitlines() if f" {name} " in t) for name in ("armory", "dtd", "average")}
    assert "87.5 ± 17.7" in line["armory"] and "0.0 ± 0.0" in line["dtd"] and "43.8 ± 8.8" in line["average"]
    assert "4 shots, test, top-1 %, ranking by letters" in printed
    assert "few_shot 4: rar - rar_untuned = +50.0 points" in printed


def test_the_papers_results_are_shown_with_the_difference():
    row = {"task": "few_shot", "dataset": "dtd", "method": "rar", "shots": 4, "figure": "top1"}
    row |= {"measured": 60.0, "published": 53.9, "difference": 6.1}
    assert published_lines({"published": [row]}) == ["dtd, 4 shots: rar top1 60.0, paper 53.9, difference +6.1"]


def test_leaks_are_reported_where_there_are_any():
    none = {"images": 9, "embedded": 9, "exact": 0, "near": 0, "other_class": 0, "pairs": []}
    leaks = {"queries": 4, "clean": True, "near_from": 0.99, "near_queries": 4, "parts": {"test_memory": none}}
    assert leak_lines({"dataset": "dtd", "leaks": leaks}) == []
    leaky = leaks | {"parts": {"test_memory": none | {"exact": 2, "near": 1}, "training": none}}
    (line,) = leak_lines({"dataset": "dtd, food101", "datasets": ["dtd"], "leaks": {"dtd": leaky, "food101": leaks}})
    assert line.startswith("leaks, dtd: 2 of 4 evaluated images are in test_memory byte for byte, 1 of 4 have a near")
