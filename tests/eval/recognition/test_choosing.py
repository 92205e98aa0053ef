"""Rankings are chosen on validation images with real parts: retriever, ranker and answers on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_prep.core.files import read_json
from eval.recognition import choosing
from eval.report.predictions import read_predictions
from eval.run import main

FEW = (
    "eval.shots=[1]",
    "eval.seeds=[1,2]",
    "eval.ranker_only_images=0",
    "eval.candidates=auto",
    "eval.permutations=auto",
)


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, whose 16 validation images are enough to choose."""
    monkeypatch.setattr(choosing, "MIN_IMAGES", 10)
    return shutil.copytree(finished, tmp_path / "run")


def test_source_k_and_fusion_are_chosen_on_validation_images_and_reused(run, capsys):
    settings = ("eval.k=auto", "eval.fusion=true", *FEW)
    main(["--ckpt", str(run), *settings, "--name", "chosen"])
    results = read_json(run / "eval" / "chosen" / "results.json")
    assert set(results["choice"]) == {"zero_shot-0", "few_shot-1"}
    for kind, choice in results["choice"].items():
        counts = [point["k"] for point in choice["curve"]]
        assert choice["k"] in counts and counts[-1] == len(results_classes(run))
        recalls = [point["recall"] for point in choice["curve"]]
        assert recalls == sorted(recalls) and recalls[-1] == 1.0
        best = max(point["rar_fused"] for point in choice["curve"])
        assert next(p for p in choice["curve"] if p["k"] == choice["k"])["rar_fused"] == best
        assert [row["source"] for row in choice["sources"]] == (
            [] if kind == "zero_shot-0" else ["fused", "image", "name"]
        )
    rows = {(row["task"], row["method"]): row for row in results["rows"]}
    assert rows["few_shot", "rar"]["k"] == results["choice"]["few_shot-1"]["k"]
    # One request per image: a likelihood serves every memory and number of candidates.
    (answers,) = (run / "eval" / "validation-likelihood").glob("answers-*/answers-rar.jsonl")
    lines = answers.read_text().splitlines()
    assert len(lines) == 16
    main(["--ckpt", str(run), "--split", "val", *settings])
    assert answers.read_text().splitlines() == lines


def results_classes(run: Path) -> set[str]:
    return {record["truth"] for record in read_predictions(run / "eval" / "chosen")}


def test_letters_compare_numbers_of_candidates_and_orders(run):
    main(["--ckpt", str(run), "--mode", "letters", "eval.k=auto", "eval.zero_shot=false", *FEW, "--name", "chosen"])
    (choice,) = read_json(run / "eval" / "chosen" / "results.json")["choice"].values()
    assert [point["k"] for point in choice["curve"]] == [5, 8] and {
        point["permutations"] for point in choice["curve"]
    } == {choice["permutations"]}
    assert choice["method"] == "rar" and choice["fusion"] is None  # the run's recipe has no fusion


def test_with_few_validation_images_nothing_is_chosen_and_that_is_said(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    main(["--ckpt", str(run), "eval.k=auto", "eval.zero_shot=false", *FEW, "--name", "chosen"])
    (choice,) = read_json(run / "eval" / "chosen" / "results.json")["choice"].values()
    assert (choice["k"], choice["source"], choice["method"]) == (5, "fused", "rar")
    assert "with 16 validation images, fewer than 50" in choice["reason"]


def test_an_explicit_k_beyond_the_validation_classes_is_used_and_exemplars_are_shown_in_the_choice_too(run):
    settings = ("eval.k=9", "eval.fusion=true", "eval.show_exemplars=true", "eval.zero_shot=false", *FEW)
    main(["--ckpt", str(run), "--mode", "letters", *settings, "--name", "chosen"])
    results = read_json(run / "eval" / "chosen" / "results.json")
    (choice,) = results["choice"].values()
    assert choice["k"] == 9 and {row["k"] for row in results["rows"] if row["method"] == "rar"} == {9}
    assert {"rar_fused", "rar_gated"} <= {row["method"] for row in results["rows"]}


def test_settings_that_leave_less_to_choose_do_not_replace_the_runs_choice(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "MIN_IMAGES", 10)
    run = shutil.copytree(finished, tmp_path / "run")
    main(["--ckpt", str(run), *FEW])
    before = (run / "eval" / "choices-likelihood.json").read_bytes()
    main(["--ckpt", str(run), "eval.fit_images=12", *FEW, "--name", "narrow"])
    assert (run / "eval" / "choices-likelihood.json").read_bytes() == before
    assert (run / "eval" / "narrow" / "choices.json").is_file()
