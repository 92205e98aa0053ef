"""Further metrics: values, names, mistakes, and that each shows in rows, tables, the page and the tracker."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.results_file import read_results, write_results
from data_prep.settings.loading import given_values
from eval.metrics.further import compute_metrics, load_metrics, mean_class_top1, mean_reciprocal_rank
from eval.recognition.tracking import plot_points
from eval.report.page import render_page
from eval.report.predictions import write_predictions
from eval.report.reading import FILES, read_evaluations
from eval.report.rescore import rescore
from eval.report.table import print_results
from tests.eval.evaluation_folder import NAMES, line_of, write_evaluation

names = st.sampled_from("abc")
predictions = st.lists(
    st.builds(lambda truth, ranking: {"truth": truth, "ranking": ranking}, names, st.permutations("abc")), min_size=1
)


@given(predictions, st.integers(1, 4))
def test_classes_count_equally_however_many_images_they_have(lines, times):
    repeated = [line for line in lines for _ in range(times if line["truth"] == "a" else 1)]
    assert mean_class_top1(repeated) == pytest.approx(mean_class_top1(lines))
    by_class = {line["truth"]: [] for line in lines}
    for line in lines:
        by_class[line["truth"]].append(line["ranking"][0] == line["truth"])
    expected = sum(sum(hits) / len(hits) for hits in by_class.values()) / len(by_class)
    assert mean_class_top1(lines) == pytest.approx(expected)


@given(predictions)
def test_reciprocal_ranks_are_averaged(lines):
    expected = sum(1 / (line["ranking"].index(line["truth"]) + 1) for line in lines) / len(lines)
    assert mean_reciprocal_rank(lines) == pytest.approx(expected)
    assert mean_reciprocal_rank([{"truth": "d", "ranking": ["a"]}]) == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [("text", "returned 'text'"), (math.nan, "returned nan"), (True, "returned True"), ([1.0], "returned")],
)
def test_a_value_that_is_no_finite_number_is_refused(value, message):
    with pytest.raises(UserError, match=rf"eval\.metrics: mine {message}.* on rar"):
        compute_metrics({"mine": lambda lines: value}, [], "rar")
    assert compute_metrics({"mine": lambda lines: None}, [], "rar") == {"mine": None}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module of the user's with metrics, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    code = "def length(lines): return float(len(lines))\ndef top1(lines): return 1.0\ndef fails(lines): return 1 / 0\n"
    (tmp_path / "my_metrics.py").write_text(code)
    yield "my_metrics"
    sys.modules.pop("my_metrics", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An evaluation with predictions of a retriever and two rankers, by two seeds."""
    folder = write_evaluation(tmp_path, choices={"bootstrap": 20})
    results = read_results(folder)
    heads = ("key", "task", "shots", "seed", "method", "truth", "ranking")
    memories = [("few_shot", 4, 1), ("few_shot", 4, 2)]
    lines = [
        line_of(n, method, *m) for method in ("clip_knn", "rar_untuned", "rar") for m in memories for n in range(6)
    ]
    lines = [{k: line[k] for k in heads} if line["method"] == "clip_knn" else line for line in lines]
    write_predictions(folder, NAMES, lines)
    write_results(folder, results, FILES)
    return folder


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["my_metrics:top1"], "rows have a column top1 already"),
        (["mean_class_top1", "my_metrics:mean_class_top1"], "my_metrics.py has no mean_class_top1"),
        (["mean_clas_top1"], "there are mean_class_top1, mean_reciprocal_rank"),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused_before_anything_is_computed(module, metrics, message):
    with pytest.raises(UserError, match=message):
        load_metrics(metrics)


def test_a_failing_metric_is_named_with_its_line(module):
    with pytest.raises(UserError, match=r"fails failed on rar: ZeroDivisionError: .*my_metrics\.py, line 3"):
        compute_metrics(load_metrics([f"{module}:fails"]), [], "rar")


def test_a_metric_shows_in_rows_table_page_and_curves(module, folder, capsys, monkeypatch):
    metrics = ["mean_class_top1", f"{module}:length"]
    given_values([f"eval.metrics=[{','.join(metrics)}]"], Path.cwd())
    results = rescore(folder, metrics)
    assert all(row["length"] == row["n"] == 6 for row in results["rows"]) and results["metrics"] == metrics
    monkeypatch.setenv("COLUMNS", "80")
    print_results(results)
    printed = capsys.readouterr().out
    table = printed[printed.index("Further metrics") :].splitlines()
    assert table[1].split() == ["method", "mean_class_top1", "length"]
    assert [line.split()[-3:] for line in table if line.startswith("rar ")] == [["6", "±", "0"]]
    page = render_page([evaluated for _, evaluated in read_evaluations(folder)])
    assert "<th>mean_class_top1</th><th>length</th>" in page and "<td>6 ± 0</td>" in page
    (point,) = plot_points(results)
    assert point["few_shot/rar_length"] == 6
    assert rescore(folder)["metrics"] == metrics, "kept when it is rescored again"
    assert "length" not in rescore(folder, [])["rows"][0]
    assert "Further metrics" not in (folder / "report.html").read_text()


def test_a_metric_of_another_machines_evaluation_is_not_run(module, folder, tmp_path, monkeypatch):
    given_values([f"eval.metrics=[{module}:length]"], Path.cwd())
    rescore(folder, [f"{module}:length"])
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "another home"))
    with pytest.raises(UserError, match=r"another machine or user, and names paths or code .*my_metrics:length in"):
        rescore(folder)
    assert "length" not in rescore(folder, [])["rows"][0]
