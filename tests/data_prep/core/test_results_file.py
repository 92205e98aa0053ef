"""Results are read back as they were written, and changed or damaged ones are rejected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.results_file import RESULTS, check_result, read_results, write_results

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), values, max_size=5))
@settings(max_examples=40, deadline=None)
def test_results_are_read_back_as_written(tmp_path_factory, results):
    folder = tmp_path_factory.mktemp("results")
    results = {key: value for key, value in results.items() if key not in ("files", "sha256")}
    write_results(folder, results)
    assert read_results(folder) == results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n')
    write_results(tmp_path, {"top1": 0.25, "shots": {4: 1, 16: 2}}, ["lines.jsonl"])
    return tmp_path


def test_a_changed_or_missing_file_is_an_error_that_says_what_to_run(folder):
    assert read_results(folder, ["lines.jsonl"]) == {"top1": 0.25, "shots": {"4": 1, "16": 2}}
    check_result(folder / "lines.jsonl")
    (folder / "lines.jsonl").write_text('{"a": 2}\n')
    assert read_results(folder)["top1"] == 0.25  # the lines are not requested, so not verified
    with pytest.raises(UserError, match=r"lines\.jsonl: damaged or changed .*; run the command that wrote it again"):
        read_results(folder, ["lines.jsonl"])
    with pytest.raises(UserError, match=r"lines\.jsonl: damaged or changed .*copy a file that you changed"):
        check_result(folder / "lines.jsonl")
    (folder / "lines.jsonl").unlink()
    with pytest.raises(UserError, match=r"lines\.jsonl: no such file; run the command that wrote it again"):
        read_results(folder, ["lines.jsonl"])
    (folder / RESULTS).unlink()
    with pytest.raises(UserError, match=r"results\.json: no such file; run the command that wrote it again"):
        read_results(folder)


@pytest.mark.parametrize("text", ['{"top1": 0.25}', "[]", '{"top1": 0.2', '{"files": {}, "sha256": "0"}'])
def test_results_without_a_valid_checksum_are_rejected(folder, text):
    (folder / RESULTS).write_text(text)
    with pytest.raises(UserError, match=r"results\.json: .*; run the command that wrote it again"):
        read_results(folder)


def test_a_changed_digit_in_a_metric_is_detected(folder):
    results = json.loads((folder / RESULTS).read_text())
    (folder / RESULTS).write_text(json.dumps(results | {"top1": 0.75}))
    with pytest.raises(UserError, match=r"results\.json: damaged \(its checksum differs\)"):
        read_results(folder)


@pytest.mark.parametrize("results", [None, "[]", '{"files": ["lines.jsonl"]}', '{"files": {"other.jsonl": "0"}}'])
def test_a_file_that_no_results_name_is_not_verified(tmp_path, results):
    (tmp_path / "lines.jsonl").write_text("anything")
    if results is not None:
        (tmp_path / RESULTS).write_text(results)
    check_result(tmp_path / "lines.jsonl")
