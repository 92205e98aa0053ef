"""The training-step benchmark: what it prints of several rounds, and of sides that fail."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def train_step(benchmark):
    return benchmark("train_step")


def turn(tokens_per_s: float, mfu: float | None = None) -> dict:
    return {
        "tokens_per_s": tokens_per_s, "examples_per_s": tokens_per_s / 100, "peak_gb": 1.0, "mfu": mfu, "tokens": 500,
        "parameters": 7, "trainable": 3, "peak_flops": None,
    }  # fmt: skip


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_ratio_is_the_median_of_the_rounds_ratios_with_its_range(train_step, capsys):
    turns = iter([turn(200), turn(100), turn(120), turn(100), turn(150), turn(50)])
    assert train_step.run_rounds(["ours", "trl"], 3, lambda side: next(turns), train_step.choose_size(True))
    metrics = last_json(capsys)
    assert metrics["ratio_to_trl"] == metrics["examples_ratio_to_trl"] == 2
    assert metrics["ratio_to_trl_range"] == [1.2, 3]
    assert metrics["ours"]["tokens_per_s"] == {"median": 150, "low": 120, "high": 200}
    assert metrics["ours"]["mfu"] is None and metrics["peak_flops"] is None
    assert metrics["rounds"] == 3


def test_a_side_that_fails_leaves_the_others_metrics(train_step, capsys):
    turns = iter([turn(200), {"failed": "out of memory"}, turn(100), turn(220), turn(100)])
    sides = ["ours", "objectives", "trl"]
    assert not train_step.run_rounds(sides, 2, lambda side: next(turns), train_step.choose_size(True))
    metrics = last_json(capsys)
    assert metrics["failed"] == {"objectives": "out of memory"}
    assert metrics["ratio_to_trl"] == pytest.approx(2.1)


def test_all_objectives_are_trained_in_one_step(train_step):
    metrics = train_step.run_side("objectives", train_step.choose_size(True))
    assert metrics["examples_per_s"] > 0
    assert metrics["tokens"] > train_step.run_side("ours", train_step.choose_size(True))["tokens"]
