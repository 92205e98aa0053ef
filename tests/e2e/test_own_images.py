"""A user's labelled folder works with settings alone.

The images are scans of handwriting from the package scikit-learn (its digits data set).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from eval.report.predictions import read_predictions

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
    run_here("eval.run", "--ckpt", "run", "eval.shots=[4]")
    results = json.loads((tmp_path / "run" / "eval" / "test-likelihood" / "results.json").read_text())
    assert results["dataset"] == "digits"
    top1 = {
        m: v["mean"] for part in results["summary"] if part["task"] == "few_shot" for m, v in part["methods"].items()
    }
    # Scans are very different from shields, but nearest neighbours work; and tuning on them must improve the ranker.
    assert top1["clip_knn"] > 0.3
    assert top1["rar"] > top1["rar_untuned"]
    truths = {record["truth"] for record in read_predictions(tmp_path / "run/eval/test-likelihood")}
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
    run_here("eval.run", "--ckpt", "run", "eval.zero_shot=false", "eval.seeds=[1]")
    results = json.loads((tmp_path / "run" / "eval" / "test-likelihood" / "results.json").read_text())
    assert {row["n"] for row in results["rows"] if row["method"] == "rar"} == {20}
