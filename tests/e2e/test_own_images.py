"""A user's labelled folder works with settings alone.

The images are scans of handwriting from the package scikit-learn (its digits data set).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from eval.report.predictions import read_predictions
from tests.commands import call, call_here

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write_digits(folder: Path, per_class: int) -> None:
    """Writes a folder per class of 64-pixel scans."""
    digits = load_digits()
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for index, scan in enumerate(digits.images[digits.target == label][:per_class]):
            image = Image.fromarray((255 - scan * 15.9).astype(np.uint8)).resize((64, 64), Image.BICUBIC)
            image.save(folder / name / f"{index}.png")


def test_a_folder_of_scans_trains_and_evaluates_with_settings_alone(run_here, tmp_path: Path):
    write_digits(tmp_path / "digits", per_class=20)
    run_here("rar_train.fit", "recipe=ranker_lora", "data.name=folder", "data.root=digits", "out=run", "cache=cache")
    run_here("eval.run", "--ckpt", "run", "eval.shots=[4]", "--name", "digits")
    results = json.loads((tmp_path / "run" / "eval" / "digits" / "results.json").read_text())
    assert results["dataset"] == "digits"
    top1 = {
        m: v["mean"] for part in results["summary"] if part["task"] == "few_shot" for m, v in part["methods"].items()
    }
    # Scans are very different from shields, but nearest neighbours work; and tuning on them must improve the ranker.
    assert top1["clip_knn"] > 0.3
    assert top1["rar"] > top1["rar_untuned"]
    truths = {record["truth"] for record in read_predictions(tmp_path / "run/eval/digits")}
    assert truths == set(NAMES)


def test_the_splits_of_a_table_are_used(run_here, small, tmp_path: Path):
    write_digits(tmp_path / "digits", per_class=8)
    with open(tmp_path / "samples.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for name in NAMES:
            for index in range(8):
                split = ("train", "train", "train", "train", "val", "val", "test", "test")[index]
                table.writerow([f"digits/{name}/{index}.png", name, split])
    settings = [s for s in small if not s.startswith("data.")]
    arguments = ("recipe=ranker_lora", "data.name=folder", "data.root=samples.csv", "out=run", "cache=cache")
    run_here("rar_train.fit", *arguments, *settings)
    (tmp_path / "elsewhere").mkdir()
    evaluation = (
        "eval.run",
        "--ckpt",
        str(tmp_path / "run"),
        "eval.zero_shot=false",
        "eval.seeds=[1]",
        "--name",
        "few",
    )
    call_here(tmp_path / "elsewhere", *evaluation)  # the run's paths are relative to where it was made
    assert not list((tmp_path / "elsewhere").iterdir())
    results = json.loads((tmp_path / "run" / "eval" / "few" / "results.json").read_text())
    assert {row["n"] for row in results["rows"] if row["method"] == "rar"} == {20}
    (tmp_path / "samples.csv").rename(tmp_path / "moved.csv")
    gone = call_here(tmp_path / "elsewhere", *evaluation, fails=True).stderr
    assert f"data.root={tmp_path / 'samples.csv'}: no such folder or file; give data.root=PATH" in gone


@pytest.mark.slow
def test_a_run_is_evaluated_from_any_folder_and_after_run_and_data_have_moved(small, tmp_path: Path):
    home = tmp_path / "project"
    write_digits(home / "digits" / "more", per_class=8)
    settings = [s for s in small if not s.startswith("data.")]
    fit = call(home, "rar_train.fit", "recipe=ranker_lora", "data.root=digits", "out=runs/a", "cache=cache", *settings)
    assert "data.name=folder (your own images)" in fit.stderr
    assert "the 10 folders that hold images are the classes, such as eight" in fit.stderr
    assert fit.stderr.count("data: read 80 images (80 .png) of 10 classes") == 1
    evaluation = ("eval.run", "--ckpt", "eval.zero_shot=false", "eval.seeds=[1]", "eval.leaks=allow")
    module, option, *rest = evaluation
    there = call(tmp_path, module, option, "project/runs/a", *rest)
    assert f"start from {home}, where it was made" in there.stderr and not (tmp_path / "cache").exists()
    (home / "runs" / "a").rename(tmp_path / "b")
    (home / "digits").rename(tmp_path / "photographs")
    gone = call(Path("/"), module, option, str(tmp_path / "b"), *rest, fails=True)
    assert f"data.root={home / 'digits'}: no such folder or file; give data.root=PATH" in gone.stderr
    moved = call(Path("/"), module, option, str(tmp_path / "b"), *rest, f"data.root={tmp_path / 'photographs'}")
    assert moved.stdout.splitlines()[3:8] == there.stdout.splitlines()[3:8]  # the title names the folder
