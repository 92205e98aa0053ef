"""The examples of docs/extending.md, run by the commands as a user runs them, from a folder with the modules."""

from __future__ import annotations

import json
import os

import pytest

from tests.extending_page import install, write_examples

pytestmark = pytest.mark.slow


def test_an_encoder_of_images_alone_goes_through_fit_evaluation_and_recognition(run_command, small, tmp_path):
    write_examples(tmp_path)
    settings = (*small, "tracking.wandb=disabled", "retriever.model=colours:load", "trainer.devices=2")
    fit = run_command("rar_train.fit", "recipe=ranker_lora", "out=run", *settings, "trainer.strategy=ddp")
    assert "mining: left out: candidates from name, as retriever.model=colours:load embeds images alone" in fit.stderr
    metrics = "eval.metrics=[mean_class_top1,names:genus_top1]"
    done = run_command("eval.run", "--ckpt", "run", metrics)
    assert "left out: clip_zero_shot, clip_fused, tip, tip_f and the zero-shot memory" in done.stderr
    assert "genus_top1" in done.stdout and "clip_fused" not in done.stdout
    (folder,) = (path.parent for path in (tmp_path / "run" / "eval").glob("*/results.json"))
    results = json.loads((folder / "results.json").read_text())
    methods = {row["method"] for row in results["rows"] if row["task"] == "few_shot"}
    assert {"clip_knn", "rar_untuned", "rar"} <= methods and not methods & {"clip_zero_shot", "clip_fused"}
    assert all(0 <= row["genus_top1"] <= 1 for row in results["rows"])
    assert "<th>genus_top1</th>" in (folder / "report.html").read_text()
    run_command("eval.run", "--ckpt", "run", metrics)  # the same command refreshes its own folder
    assert list((tmp_path / "run" / "eval").glob("*/results.json")) == [folder / "results.json"]
    pictures = sorted((tmp_path / "cache").glob("armory-test-*/**/*.png"))[:3]
    labels = run_command("eval.predict", "--ckpt", "run", *map(str, pictures), "--to", "labels.csv")
    assert "embeds images alone" not in labels.stderr
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 4
    build = ("data_prep.memory", "build", "memory", "recipe=ranker_lora", *small, "retriever.model=colours:load")
    assert "names are listed and not embedded, as retriever.model=colours:load" in run_command(*build).stderr
    search = ("data_prep.memory", "search", "memory", str(pictures[0]), "source=name")
    failed = run_command(*search, fails=True)
    assert failed.returncode == 2 and "retriever.model=colours:load embeds images alone" in failed.stderr


def test_an_installed_name_works_from_any_folder(run_command, small, tmp_path, monkeypatch):
    packages = tmp_path / "packages"
    packages.mkdir()
    write_examples(packages)
    install(packages, "rar_train.encoders", "hues", "colours:load")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")]))
    recipe = ("rar_train.doctor", "recipe=ranker_lora", *small)
    assert "hues, an encoder of your own" in run_command(*recipe, "retriever.model=hues").stdout
    failed = run_command(*recipe, "retriever.model=colour:load", fails=True)
    assert "retriever.model=colour:load: there is no module colour" in failed.stdout + failed.stderr
