"""Curves as CSV always, Weights & Biases by setting, one tracked run however often it is resumed."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, WandbLogger

from rar_train.tracking import loggers_of, run_id


def test_csv_is_the_only_logger_where_tracking_is_disabled(tiny, tmp_path):
    (logger,) = loggers_of(tiny(tmp_path), 0)
    assert isinstance(logger, CSVLogger)
    assert not (tmp_path / "wandb_id.txt").exists()


def test_each_stretch_of_a_run_has_a_csv_file_of_its_own(tiny, tmp_path):
    for start in (0, 50):
        (logger,) = loggers_of(tiny(tmp_path), start)
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


def test_offline_tracking_needs_no_account_and_goes_on_under_the_same_id(tiny, tmp_path):
    recipe = tiny(tmp_path, "tracking.wandb=offline", "tracking.project=shields")
    ids = []
    for start in (0, 2):
        _, logger = loggers_of(recipe, start)
        assert isinstance(logger, WandbLogger)
        logger.log_metrics({"train/loss": 1.0}, step=start)
        logger.experiment.finish()
        ids.append(logger.version)
        assert logger.name == "shields"
    assert ids == [run_id(tmp_path)] * 2
    kept = {path.name.rsplit("-", 1)[1] for path in Path(tmp_path / "wandb").glob("offline-run-*")}
    assert kept == {run_id(tmp_path)}
