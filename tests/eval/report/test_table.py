"""Console tables of results whose metrics can be computed by hand."""

from __future__ import annotations

import pytest

from eval.metrics.summary import average_rows, summarise
from eval.report.table import print_results
from tests.eval.by_hand import CLASSES, HITS, hits_by_hand, row, rows_by_hand
from tests.eval.evaluation_folder import CHOICES


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
    line = next(text for text in printed.splitlines() if text.startswith("rar "))
    assert "87.5 ± 17.7" in line and "100.0" in line
    assert all(method in printed for method in (*HITS, "ranker_alone"))
    assert "4 shots: rar - clip_zero_shot = +37.5 points" in printed
    assert "4 shots: rar - rar_untuned = +50.0 points" in printed


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
    for text in ("91.0 17 3", "rar: replies ok 6, unreadable 2", "true class is shown: 62.5, -"):
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
    line = {
        name: next(t for t in printed.splitlines() if t.startswith(name) and " ± " in t)
        for name in ("armory", "dtd", "average")
    }
    assert "87.5 ± 17.7" in line["armory"] and "0.0 ± 0.0" in line["dtd"] and "43.8 ± 8.8" in line["average"]
    assert "4 shots, test, top-1 %, ranking by letters" in printed
    assert "4 shots: rar - rar_untuned = +50.0 points" in printed


WIDTHS = {40: [], 60: ["broken", "seeds"], 80: ["top-5 %", "seeds"], 140: []}
"""Columns that are left out and named, by the width of the terminal; in the narrowest a row is lines of pairs."""


def staged(rows: list[dict]) -> list[dict]:
    """Adds what the ranker's rows have, in numbers as large as a benchmark's."""
    changes = {"top1_given_hit": 0.979, "corrected": 12783, "broken": 1019}
    return [row | (changes if row["method"].startswith("rar") else {}) for row in rows]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_fits_the_terminal_without_breaking_words(rows, hits, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = staged([*rows, *(row("rar_fused", seed, 0.9) for seed in (1, 2)), row("ranker_alone", 1, 0.25)])
    head = {"dataset": "armory", "split": "test", "mode": "likelihood", "k": 5}
    print_results(head | {"rows": rows, "summary": summarise([(hits, CLASSES)], 50)})
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width and "…" not in printed
    lines = [text.split() for text in printed.splitlines()]
    for method in (*HITS, "ranker_alone", "rar_fused"):
        assert any(method in words for words in lines)
    named = [text for text in printed.splitlines() if text.startswith("(")]
    assert bool(named) == bool(WIDTHS[width]) and all(name in named[0] for name in WIDTHS[width])
    text = " ".join(printed[printed.index("\nrar_fused") :].split())
    if width == 40:
        assert text.startswith("rar_fused top-1 % 90.0 ± 0.0 top-5 % 100.0")
        assert "given hit % 97.9 corrected 12783 broken 1019" in text
    else:
        assert text.startswith("rar_fused 90.0 ± 0.0") and ("12783" in text) == (width > 60)


@pytest.mark.parametrize("width", [80, 160])
def test_a_table_of_several_data_sets_fits_the_terminal_too(rows, hits, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    methods = ("clip_fused", "rar_fused", "rar_gated")
    rows = staged([*rows, *(row(method, seed, 0.5) for method in methods for seed in (1, 2))])
    named = [row | {"dataset": "stanford_cars"} for row in rows]
    summary = [{"dataset": "average"} | part for part in summarise([(hits, CLASSES)] * 2, 50)]
    head = {"dataset": "armory, stanford_cars", "datasets": ["armory", "stanford_cars"], "split": "test", "k": 5}
    print_results(head | {"mode": "letters", "rows": rows + named, "summary": summary})
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width and "…" not in printed
    (line,) = [text for text in printed.splitlines() if text.startswith("stanford_cars ")]
    assert line.count("50.0") >= 3 and ("±" in line) == (width == 160)
    assert ("(deviations over seeds: in a wider terminal)" in printed) == (width == 80)


def test_the_console_says_what_was_chosen_and_why(rows, hits, capsys):
    head = {"dataset": "armory", "split": "test", "mode": "likelihood", "k": 10, "rows": rows}
    print_results(head | {"summary": summarise([(hits, CLASSES)], 50)} | CHOICES)
    printed = capsys.readouterr().out
    assert "likelihood, k = 5, 10" in printed
    assert "4 shots: uses rar_fused, candidates from images and names, k = 10: highest top-1 on 9 images" in printed
    assert "zero shot: the retriever alone is better on validation images: it is used" in printed
