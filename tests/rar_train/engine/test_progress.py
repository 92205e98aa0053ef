"""Log lines of a training without a terminal, and none beside a progress bar."""

from __future__ import annotations

import re

import pytest

from data_prep.settings.loading import load_recipe
from rar_train.engine import progress
from rar_train.ranker.train import train_ranker
from rar_train.retriever.train import train_retriever
from tests.rar_train.retriever.test_train import SETTINGS

LINE = r"training: step (\d) of 4, loss \d+\.\d{4}, \d+\.\d examples/s, 0:0\d:\d\d left"
VALIDATED = r"training: step (\d) of 4, validation: .*\b"


@pytest.fixture
def always(monkeypatch):
    """Has a line logged at every step."""
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)


def test_without_a_bar_steps_and_validations_are_logged(tiny, tmp_path, caplog, always):
    caplog.set_level("INFO")
    train_ranker(tiny(tmp_path / "run", "trainer.progress=off"))
    assert re.findall(LINE, caplog.text) == ["1", "2", "3", "4"]
    assert re.findall(VALIDATED + r"likelihood \d+\.\d %, .*retriever \d+\.\d %", caplog.text) == list("1234")
    assert "validation and checkpoint every step (trainer.checkpoint_every=50 is for longer runs)" in caplog.text
    assert re.search(r"done, with the last step.s weights; adapter in .*adapter", caplog.text)


def test_a_line_is_due_only_after_half_a_minute(tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    train_ranker(tiny(tmp_path / "run", "optim.max_steps=2"))
    assert "examples/s" not in caplog.text and "step 2 of 2, validation: " in caplog.text


def test_beside_a_bar_nothing_is_logged(tiny, tmp_path, caplog, always):
    caplog.set_level("INFO")
    train_ranker(tiny(tmp_path / "run", "trainer.progress=on", "optim.max_steps=2"))
    assert not re.search(r"step \d of", caplog.text)


def test_the_retrievers_training_is_logged_too(tmp_path, caplog, always):
    caplog.set_level("INFO")
    paths = (f"cache={tmp_path / 'cache'}", f"out={tmp_path / 'run'}")
    train_retriever(load_recipe([*SETTINGS, *paths, "optim.max_steps=4"]))
    assert re.findall(LINE, caplog.text) == ["1", "2", "3", "4"]
    assert re.findall(VALIDATED + "top1 ", caplog.text) == ["1", "2", "3", "4"]
