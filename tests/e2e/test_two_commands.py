"""The README's two commands in small: from nothing to the accuracy of a tuned ranker."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from eval.report.predictions import read_predictions

ADAPTERS = {"tip", "tip_f", "linear_probe"}
METHODS = {"clip_zero_shot", "clip_knn", "clip_fused", *ADAPTERS, "ranker_alone", "rar_untuned", "rar"}
ROW_KEYS = {"task", "dataset", "shots", "seed", "method", "k", "n", "top1", "top5", "recall_at_k"}


def test_without_a_terminal_the_log_has_our_lines_alone_and_none_of_the_libraries(evaluated: Path):
    for log in ("fit.txt", "eval-log.txt"):
        lines = (evaluated / log).read_text().splitlines()
        assert lines and [line for line in lines if not re.match(r"\d\d:\d\d:\d\d \S", line)] == []


def test_fit_then_eval_gives_rows_intervals_and_predictions(evaluated: Path):
    run = evaluated / "run"
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert (run / "recipe.yaml").is_file()
    assert list(run.glob("wandb/offline-run-*/run-*.wandb")), "no offline run for Weights & Biases"
    (metrics,) = run.glob("log/*/metrics.csv")
    assert any(line["val/letters"] for line in csv.DictReader(metrics.open()))

    printed = (evaluated / "eval.txt").read_text()
    assert all(method in printed for method in METHODS)
    results = json.loads((run / "eval" / "test-likelihood" / "results.json").read_text())
    assert {row["method"] for row in results["rows"]} == METHODS
    assert all(row.keys() >= ROW_KEYS for row in results["rows"])
    few = {(row["shots"], row["seed"]) for row in results["rows"] if row["task"] == "few_shot"}
    assert few == {(2, 1), (2, 2)}
    for part in results["summary"]:
        gain = part["rar_minus_retriever"]
        assert gain["low"] <= gain["mean"] <= gain["high"]
        assert part["methods"]["rar"].keys() == {"mean", "sd", "low", "high"}

    lines = list(read_predictions(run / "eval" / "test-likelihood"))
    ranked = [line for line in lines if line["method"].startswith("rar")]
    assert len(ranked) == 24 * 3 * 2  # images, memories (names, two draws), methods
    assert len(lines) - len(ranked) == 24 * (1 + 2 * 6) + 6  # the retriever's methods by memory, and the ranker alone
    for line in ranked:
        names = [candidate["name"] for candidate in line["candidates"]]
        assert sorted(line["ranking"]) == sorted(names)
        assert len(set(names)) == len(names) == 5
        assert sum(line["probabilities"]) == pytest.approx(1, abs=1e-3)
        assert line["outcome"] == "ok"
    assert 'id="data"' in (run / "eval" / "test-likelihood" / "report.html").read_text()
    # The metrics of the table agree with the predictions.
    rar = [line for line in lines if line["method"] == "rar" and line["task"] == "zero_shot"]
    counted = sum(line["ranking"][0] == line["truth"] for line in rar) / len(rar)
    (row,) = [row for row in results["rows"] if row["method"] == "rar" and row["task"] == "zero_shot"]
    assert row["top1"] == pytest.approx(counted)


def test_the_other_ranking_modes_and_a_checkpoint_can_be_evaluated(fitted: Path, run_here, tmp_path: Path):
    run = fitted
    quick = ("eval.seeds=[1]", "eval.ranker_only_images=0")
    run_here("eval.run", "--ckpt", "run", "--mode", "letters", "--split", "val", "--name", "letters", *quick)
    letters = json.loads((run / "eval" / "letters" / "results.json").read_text())
    assert letters["mode"] == "letters"
    run_here("eval.run", "--ckpt", "run", "--mode", "generate", "--name", "lists", *quick)
    lines = list(read_predictions(run / "eval" / "lists"))
    lines = [line for line in lines if line["method"].startswith("rar")]
    assert {line["outcome"] for line in lines} <= {"ok", "repaired", "unreadable"}
    assert all(sorted(line["ranking"]) == sorted(c["name"] for c in line["candidates"]) for line in lines)
    assert all("reply" in line for line in lines)

    pages = ("run/eval/lists", "run/eval/letters")
    run_here("eval.report", *pages, "--to", "both.html")
    both = (tmp_path / "both.html").read_text()
    assert "run lists" in both and "run letters" in both

    checkpoint = sorted((run / "checkpoints").glob("step-*.ckpt"))[0]
    run_here("eval.run", "--ckpt", str(checkpoint), "--name", "early", *quick)
    early = json.loads((run / "eval" / "early" / "results.json").read_text())
    final = json.loads((run / "adapter" / "manifest.json").read_text())["adapter"]
    assert early["adapter"] != final


def test_a_second_fit_reuses_the_adapter_and_says_so(fitted: Path, run_here, small, tmp_path: Path):
    before = (fitted / "adapter" / "adapter_model.safetensors").read_bytes()
    again = run_here("rar_train.fit", "recipe=ranker_lora", "out=run", "cache=cache", *small)
    assert "reusing its adapter" in again.stderr
    assert (fitted / "adapter" / "adapter_model.safetensors").read_bytes() == before
    # Another rank needs another adapter, but the same examples.
    other = run_here("rar_train.fit", "recipe=ranker_lora", "out=other", "cache=cache", *small, "ranker.lora.rank=4")
    assert "mining: reusing" in other.stderr
    ranks = {
        tuple(t.shape) for n, t in load_file(tmp_path / "other/adapter/adapter_model.safetensors").items() if "A" in n
    }
    assert {shape[0] for shape in ranks} == {4}


def test_two_runs_with_the_same_seed_are_bit_identical(evaluated: Path, run_here, small, tmp_path: Path):
    shutil.copytree(evaluated / "cache", tmp_path / "cache")
    settings = ("recipe=ranker_lora", "cache=cache", *small, "tracking.wandb=disabled")
    run_here("rar_train.fit", "out=run", *settings)
    run_here("eval.run", "--ckpt", "run")
    one, two = evaluated / "run", tmp_path / "run"
    for file in ("adapter/adapter_model.safetensors", "eval/test-likelihood/predictions.jsonl.gz"):
        assert (one / file).read_bytes() == (two / file).read_bytes(), file
    rows = [json.loads((run / "eval/test-likelihood/results.json").read_text())["rows"] for run in (one, two)]
    assert rows[0] == rows[1]
    run_here("rar_train.fit", "out=other", *settings, "seed=1")
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "other" / weights).read_bytes() != (one / weights).read_bytes()
