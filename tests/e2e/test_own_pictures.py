"""A labelled folder of one's own works with nothing but settings.

The pictures are scans of handwriting from the package scikit-learn (its digits data set).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write_digits(folder: Path, per_class: int) -> None:
    """A folder per class of 64-pixel scans."""
    digits = load_digits()
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for number, scan in enumerate(digits.images[digits.target == label][:per_class]):
            picture = Image.fromarray((255 - scan * 15.9).astype(np.uint8)).resize((64, 64), Image.BICUBIC)
            picture.save(folder / name / f"{number}.png")


def test_a_folder_of_scans_trains_and_evaluates_with_settings_alone(run_here, tmp_path: Path):
    write_digits(tmp_path / "digits", per_class=20)
    run_here("rar_train.fit", "recipe=ranker_lora", "data.name=folder", "data.root=digits", "out=run", "cache=cache")
    run_here("eval.run", "--ckpt", "run", "eval.shots=[4]")
    results = json.loads((tmp_path / "run" / "eval" / "test-likelihood" / "results.json").read_text())
    assert results["dataset"] == "digits"
    top1 = {
        m: v["mean"] for part in results["summary"] if part["task"] == "few_shot" for m, v in part["methods"].items()
    }
    # Scans are nothing like shields, yet neighbours help; and tuning on them must help the ranker.
    assert top1["clip_knn"] > 0.3
    assert top1["rar"] > top1["rar_untuned"]
    truths = {json.loads(line)["truth"] for line in (tmp_path / "run/eval/test-likelihood/predictions.jsonl").open()}
    assert truths == set(NAMES)


def test_a_table_with_splits_is_read_as_given(run_here, small, tmp_path: Path):
    write_digits(tmp_path / "digits", per_class=8)
    with open(tmp_path / "samples.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for name in NAMES:
            for number in range(8):
                split = ("train", "train", "train", "train", "val", "val", "test", "test")[number]
                table.writerow([f"digits/{name}/{number}.png", name, split])
    settings = [s for s in small if not s.startswith("data.")]
    arguments = ("recipe=ranker_lora", "data.name=folder", "data.root=samples.csv", "out=run", "cache=cache")
    run_here("rar_train.fit", *arguments, *settings)
    run_here("eval.run", "--ckpt", "run", "eval.zero_shot=false", "eval.seeds=[1]")
    results = json.loads((tmp_path / "run" / "eval" / "test-likelihood" / "results.json").read_text())
    assert {row["n"] for row in results["rows"] if row["method"] == "rar"} == {20}
