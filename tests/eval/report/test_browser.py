"""Data of the prediction browser: kinds of errors and gains, and which predictions are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.metrics.diagnostics import Case
from eval.report.browser import KINDS, browser_data, kinds_of
from eval.report.reading import read_evaluations
from tests.eval.evaluation_folder import NAMES, write_evaluation

RIGHT = Case("key", "a", tuple("abc"), (0.9, 0.5, 0.1), tuple("abc"), tuple("abc"), (), "ok", "")


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, ["right"]),
        ({"untuned": tuple("bac")}, ["put right by tuning", "right"]),
        ({"tuned": tuple("bac")}, ["broken", "broken by tuning"]),
        ({"truth": "b", "tuned": tuple("bac")}, ["corrected", "put right by tuning"]),
        ({"truth": "b"}, ["wrong"]),
        ({"truth": "b", "fused": tuple("bac")}, ["wrong", "put right by fusion"]),
        ({"fused": tuple("cab")}, ["broken by fusion", "right"]),
        ({"fused": tuple("acb")}, ["right"]),
        ({"truth": "d", "outcome": "unreadable"}, ["missed", "unreadable"]),
    ],
)
def test_a_prediction_is_of_every_kind_that_applies(changes, kinds):
    assert kinds_of(replace(RIGHT, **changes)) == kinds


def test_a_prediction_has_the_top_of_its_ranking_and_what_each_method_puts_first(tmp_path):
    ((_, evaluated),) = read_evaluations(write_evaluation(tmp_path, fused=True))
    data = browser_data(evaluated)
    case, names = data["cases"][1], data["names"]
    assert names[case["truth"]] == names[case["fused"]] == NAMES[2]
    assert names[case["retrieved"]] == names[case["untuned"]] == NAMES[1]
    assert [(names[name], *rest) for name, *rest in case["ranking"]] == [
        (NAMES[3], 1, 3, 0.5),
        (NAMES[2], 2, 2, 0.3),
        (NAMES[1], 3, 1, 0.2),
    ]
    assert [data["kinds"][index][0] for index in case["kinds"]] == ["wrong", "put right by fusion"]
    assert [kind for kind, _ in data["kinds"]] == list(KINDS)


def test_of_many_candidates_the_first_and_the_true_class_are_on_the_page(tmp_path):
    ((_, evaluated),) = read_evaluations(write_evaluation(tmp_path))
    many = tuple(f"class {number}" for number in range(50))
    long = replace(RIGHT, truth="class 33", candidates=many, tuned=many, untuned=many)
    evaluated = replace(evaluated, cases={("few_shot", 1, 1): [long]})
    (case,) = browser_data(evaluated)["cases"]
    assert [rank for _, rank, _, _ in case["ranking"]] == [1, 2, 3, 4, 5, 34] and case["candidates"] == 50


def test_a_page_of_many_predictions_keeps_errors_first_in_every_setting(tmp_path):
    ((_, evaluated),) = read_evaluations(write_evaluation(tmp_path))
    errors = (3, 4, 90)
    cases = [replace(RIGHT, key=str(n), truth="b" if n in errors else "a") for n in range(100)]
    evaluated = replace(evaluated, cases={("few_shot", shots, 1): cases for shots in (1, 4)})
    data = browser_data(evaluated, most=10)
    keys = [[int(data["keys"][c["picture"]]) for c in data["cases"] if c["setting"] == setting] for setting in (0, 1)]
    assert data["total"] == 200 and keys[0] == keys[1] and len(keys[0]) == 5
    assert set(errors) < set(keys[0]) and keys[0] == sorted(keys[0])
    few = browser_data(evaluated, most=4)["cases"]
    assert len(few) == 4 and all(data["kinds"][c["kinds"][0]][0] == "wrong" for c in few)
