"""The output formats, as pandas reads them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from eval.predict.writing import WRITERS, check_output
from eval.report.sheets import neutralise

FORMULAS = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tx", "\rx"]


def record(number: int, name: str | None = 'a, "b"\nc') -> dict:
    candidates = [
        {"name": name, "probability": 0.75, "score": -0.25},
        {"name": "other", "probability": 0.25, "score": 0.5},
    ]
    labelled = name is not None
    return {
        "path": f"-{number}.png",
        "id": "",
        "box": [1.0, 2.0, 3.5, 4.0] if number % 2 else None,
        "name": name,
        "probability": 0.75 if labelled else None,
        "known": None if number % 2 else True,
        "ranked": labelled or None,
        "error": None if labelled else "truncated",
        "candidates": candidates if labelled else [],
    }


RECORDS = [record(0), record(1, None), record(2, "=1+1"), record(3, "Ærø \u2028"), record(4, "x")]


def read(path: Path) -> pandas.DataFrame:
    readers = {
        ".csv": lambda path: pandas.read_csv(path, keep_default_na=True),
        ".parquet": pandas.read_parquet,
        ".jsonl": lambda path: pandas.read_json(path, lines=True),
    }
    return readers[path.suffix](path)


@pytest.mark.parametrize("suffix", WRITERS)
def test_pandas_reads_what_is_written(tmp_path, suffix):
    path = tmp_path / f"labels{suffix}"
    WRITERS[suffix](path, iter([RECORDS[:2], RECORDS[2:]]), 3)
    table = read(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    columns = ["path", "id", "box", "name", "probability", "known", "ranked", "error"]
    assert list(table.columns)[:8] == columns and len(table) == len(RECORDS)
    quoted = "'" if suffix == ".csv" else ""
    assert list(table["path"]) == [f"{quoted}-{n}.png" for n in range(5)]
    assert list(table["name"].dropna()) == [RECORDS[0]["name"], f"{quoted}=1+1", "Ærø \u2028", "x"]
    assert list(table["probability"].fillna(0)) == [0.75, 0, 0.75, 0.75, 0.75]
    assert list(table["error"].fillna("")) == ["", "truncated", "", "", ""]
    if suffix == ".csv":
        assert list(table.columns)[8:] == [f"{k}_{n}" for n in (1, 2, 3) for k in ("candidate", "probability", "score")]
        assert table["score_1"][0] == -0.25 and table["box"][1] == "1 2 3.5 4" and table["candidate_3"].isna().all()
    else:
        assert list(table["candidates"][0])[1]["name"] == "other" and list(table["box"][3]) == [1, 2, 3.5, 4]


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_cell_of_a_csv_is_a_formula(text):
    assert not neutralise(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert neutralise(text) in (text, f"'{text}")


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_is_neutralised_wherever_it_stands(tmp_path, formula):
    line = record(0, formula) | {"path": formula, "id": formula, "error": formula}
    WRITERS[".csv"](tmp_path / "a.csv", iter([[line]]), 2)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        cells = dict(zip(*csv.reader(file), strict=True))
    assert {cells[key] for key in ("path", "id", "name", "error", "candidate_1")} == {f"'{formula}"}


def test_a_failed_write_leaves_no_file(tmp_path):
    def broken():
        yield RECORDS
        raise ValueError("broken")

    for suffix, write in WRITERS.items():
        with pytest.raises(ValueError, match="broken"):
            write(tmp_path / f"a{suffix}", broken(), 2)
    assert list(tmp_path.iterdir()) == []


def test_only_known_formats_are_accepted(tmp_path):
    for name in ("a.txt", "a"):
        with pytest.raises(UserError, match=r"must end with \.jsonl, \.csv, \.parquet"):
            check_output(tmp_path / name)
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        check_output(tmp_path / "b.csv")


def test_a_line_of_json_is_one_line(tmp_path):
    WRITERS[".jsonl"](tmp_path / "a.jsonl", iter([RECORDS]), 2)
    lines = (tmp_path / "a.jsonl").read_bytes().decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == RECORDS and lines[-1] == ""
