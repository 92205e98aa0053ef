"""The file of predictions: what is read is what was written, small, and refused where it is damaged."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from eval.report.predictions import PREDICTIONS, read_predictions, write_predictions
from eval.report.reading import CaseCollector, group_cases
from eval.report.results import MetricsAccumulator, read_metrics
from tests.eval.evaluation_folder import NAMES, line_of

METADATA = {"dataset": "armory", "split": "test", "mode": "letters", "k": 3, "bootstrap": 20}

numbers = st.floats(allow_nan=False, allow_infinity=False)
positions = st.integers(0, 1000)
name = st.sampled_from(NAMES)
record = st.fixed_dictionaries(
    {"key": st.text(), "method": st.sampled_from(["rar", "clip_knn"]), "truth": name, "ranking": st.lists(name)},
    optional={
        "candidates": st.lists(st.fixed_dictionaries({"name": name, "score": numbers})),
        "probabilities": st.lists(numbers),
        "reply": st.text(),
        "asked": st.lists(st.fixed_dictionaries({"shown": st.lists(positions), "first": positions})),
    },
)


@pytest.fixture(scope="module")
def lines():
    """Retriever and rankers with two memories."""
    tasks = [("zero_shot", 0, 0), ("few_shot", 4, 1)]
    records = [line_of(n, m, *task) for task in tasks for m in ("clip_knn", "rar_untuned", "rar") for n in range(40)]
    for line in records:
        if line["method"] == "clip_knn":
            for key in ("candidates", "probabilities", "outcome", "reply"):
                del line[key]
    return records


@given(st.lists(record, max_size=5))
@settings(max_examples=50, deadline=None)
def test_predictions_are_read_as_they_were_written(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("evaluation")
    write_predictions(folder, NAMES, records)
    assert list(read_predictions(folder)) == records


def test_equal_predictions_give_equal_bytes_and_a_tenth_of_the_size(lines, tmp_path):
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_predictions(folder, NAMES, iter(lines))
    written = (tmp_path / "one" / PREDICTIONS).read_bytes()
    assert written == (tmp_path / "two" / PREDICTIONS).read_bytes()
    assert len(written) < 0.1 * len("".join(map(json.dumps, lines)))


def test_metrics_of_the_file_are_those_of_its_writing_to_the_last_bit(lines, tmp_path):
    metrics = MetricsAccumulator(METADATA)
    write_predictions(tmp_path, NAMES, metrics.pass_through(iter(lines)))
    results = json.dumps(metrics.results())
    assert json.dumps(read_metrics(tmp_path, METADATA).results()) == results


def test_predictions_make_a_data_frame(lines, tmp_path):
    pandas = pytest.importorskip("pandas")
    write_predictions(tmp_path, NAMES, lines)
    frame = pandas.DataFrame(read_predictions(tmp_path))
    hits = frame.truth == frame.ranking.str[0]
    assert hits.groupby(frame.method).mean()["rar"] == pytest.approx(13 / 40)


def test_both_rankers_predictions_of_an_image_are_one_case(lines):
    expected = [f"image-{n}" for n in range(40)]
    for order in (lines, lines[::-1]):
        cases = group_cases(iter(order))
        assert cases.keys() == {("zero_shot", 0, 0), ("few_shot", 4, 1)}
        for of_setting in cases.values():
            assert sorted(case.key for case in of_setting) == sorted(expected)
            assert all(case.tuned == case.untuned[::-1] for case in of_setting)


@pytest.mark.parametrize(
    ("content", "where"),
    [("", "line 1"), ('{"names": []}\n', "line 1"), ('{"classes": ["a"]}\n{"truth": 1, "ranking": []}\n', "line 2")],
)
def test_a_file_that_is_none_is_named_with_its_line(tmp_path, content, where):
    (tmp_path / PREDICTIONS).write_bytes(gzip.compress(content.encode()))
    with pytest.raises(UserError, match=rf"predictions\.jsonl\.gz, {where}: no prediction of eval\.run"):
        list(read_predictions(tmp_path))


def test_a_cut_file_is_an_error_at_its_end(lines, tmp_path):
    write_predictions(tmp_path, NAMES, lines)
    path = tmp_path / PREDICTIONS
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="no prediction of eval"):
        list(read_predictions(tmp_path))


def test_cases_collected_while_predictions_are_written_are_those_that_are_read(tmp_path, lines):
    collector = CaseCollector()
    write_predictions(tmp_path, NAMES, collector.pass_through(iter(lines)))
    assert collector.cases() == group_cases(read_predictions(tmp_path))
