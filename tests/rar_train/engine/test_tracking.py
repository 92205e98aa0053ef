"""Metrics go to CSV always and to Weights & Biases by setting, as one run however often it is resumed."""

from __future__ import annotations

import csv
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from rar_train.engine.tracking import RankedExample, finish_tracking, make_loggers, show_rankings
from rar_train.engine.wandb_runs import run_id
from rar_train.ranker.monitor import format_parameter_table
from rar_train.ranker.train import train_ranker
from tests.wandb_records import OfflineRun


def test_csv_is_the_only_logger_where_tracking_is_disabled(tiny, tmp_path):
    (logger,) = make_loggers(tiny(tmp_path), 0)
    assert isinstance(logger, CSVLogger)
    assert not (tmp_path / "wandb_id.txt").exists()


def test_each_resumed_part_of_a_run_has_its_own_csv_file(tiny, tmp_path):
    for start in (0, 50):
        (logger,) = make_loggers(tiny(tmp_path), start)
        logger.log_metrics({"x": start}, step=start)
        logger.save()
        logger.finalize("success")
    texts = [(tmp_path / "log" / f"from-step-{start:06d}" / "metrics.csv").read_text() for start in (0, 50)]
    assert [text.split() for text in texts] == [["step,x", "0,0"], ["step,x", "50,50"]]


def test_the_run_id_is_made_once_and_kept_in_the_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = run_id(tmp_path / "a")
    assert first and run_id(tmp_path / "a") == first
    assert run_id(tmp_path / "b") != first


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff\xfe\x00", b"0123456g"])
def test_a_damaged_run_id_is_replaced(tmp_path, content):
    (tmp_path / "wandb_id.txt").write_bytes(content)
    assert re.fullmatch("[0-9a-f]{8}", run_id(tmp_path)) and run_id(tmp_path) == run_id(tmp_path)


def test_nothing_of_wandb_is_written_where_the_environment_disables_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (logger,) = make_loggers(tiny(tmp_path, "tracking.wandb=offline"), 0)
    assert isinstance(logger, CSVLogger)
    assert not (tmp_path / "wandb").exists() and not (tmp_path / "wandb_id.txt").exists()


def test_offline_tracking_needs_no_account_and_resumes_under_the_same_id(tiny, tmp_path):
    recipe = tiny(tmp_path, "tracking.wandb=offline", "tracking.project=shields")
    ids = []
    for start in (0, 2):
        _, logger = make_loggers(recipe, start)
        assert isinstance(logger, WandbLogger)
        logger.log_metrics({"train/loss": 1.0}, step=start)
        logger.experiment.finish()
        ids.append(logger.version)
        assert logger.name == "shields"
    assert ids == [run_id(tmp_path)] * 2
    written = [OfflineRun(path).run.run_id for path in Path(tmp_path / "wandb").glob("offline-run-*")]
    assert written == [run_id(tmp_path)] * 2


def make_rankings(pairs) -> list[RankedExample]:
    example, picture = pairs[0]
    return [
        RankedExample(picture, example, (2, 0, 1, 3, 4), "letters"),
        RankedExample(picture, example, (0, 1, 2, 3, 4), "generate", "?"),
    ]


def test_rankings_are_logged_with_images_in_both_trackers(tiny, pairs, finished, tmp_path):
    recipe = tiny(tmp_path, "tracking.wandb=offline", "tracking.tensorboard=true")
    loggers = make_loggers(recipe, 0, {"parameters": {"whole": {"trainable": 1, "all": 2}}})
    assert [type(logger).__name__ for logger in loggers] == ["CSVLogger", "TensorBoardLogger", "WandbLogger"]
    show_rankings(loggers, make_rankings(pairs), 7)
    finish_tracking(loggers, finished / "adapter")
    loggers[1].finalize("success")
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    run = OfflineRun(folder)
    assert run.config["parameters"]["whole"]["all"] == 2
    first = run.table("val/rankings")[0]
    assert first["ranked"].startswith(pairs[0][0].candidates[2].name)
    assert first["picture"].read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_an_offline_fit_contains_recipe_curves_rankings_with_images_and_the_adapter(tiny, tmp_path, caplog):
    caplog.set_level("INFO", "rar_train")
    recipe = tiny(tmp_path / "run", "tracking.wandb=offline")
    train_ranker(recipe)
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert f"wandb sync {folder}" in caplog.text
    run = OfflineRun(folder)
    assert (run.run.run_id, run.run.run_group, run.run.job_type) == (*[run_id(tmp_path / "run")] * 2, "fit")
    resolved = asdict(recipe)
    assert {key: run.config[key] for key in resolved} == resolved
    curves = {name for step in run.history for name in step}
    assert curves >= {"train/loss", "val/loss", "val/letters", "val/likelihood", "perf/images_per_s", "optim/lr"}

    for row in run.table("val/rankings"):
        assert row["picture"].is_relative_to(folder.parent), "an offline run is complete in its own folder"
        assert row["picture"].read_bytes().startswith(b"\x89PNG") and row["truth"] in row["ranked"].split("; ")

    files = run.files(f"adapter-{run.run.run_id}")
    assert files.keys() == {"adapter_model.safetensors", "adapter_config.json", "manifest.json"}
    assert files["adapter_model.safetensors"].samefile(tmp_path / "run" / "adapter" / "adapter_model.safetensors")


def test_a_ranking_gives_its_names_in_order_and_whether_the_true_class_is_first(pairs):
    right, wrong = make_rankings(pairs)
    assert (right.hit, wrong.hit) == (True, False)
    assert right.names[0] == pairs[0][0].candidates[2].name


def test_the_table_of_parameters_gives_counts_and_shares():
    lines = format_parameter_table([("projector", 50, 200), ("vision tower", 0, 0), ("whole", 50, 200)])
    assert lines[1].split() == ["projector", "50", "200", "25.00", "%"]
    assert lines[2].split() == ["vision", "tower", "0", "0"]


def test_a_run_logs_its_throughput(finished):
    (path,) = (finished / "log").glob("*/metrics.csv")
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("perf/tokens_per_s")]
    assert rows and all(float(row["perf/tokens_per_s"]) > float(row["perf/images_per_s"]) > 0 for row in rows)
