"""Gradient checkpointing by memory: turned on where a step needs it, with a log that says why."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, RankingExample
from data_prep.settings import RankerArgs
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora
from rar_train.models.mllm import Mllm
from rar_train.ranker import checkpointing
from rar_train.ranker.checkpointing import decide_checkpointing, example_tokens
from rar_train.ranker.collate import collate
from rar_train.ranker.datamodule import RankingData
from rar_train.ranker.module import RankerModule
from rar_train.ranker.train import train_ranker


@pytest.mark.parametrize("streaming", [False, True])
def test_auto_turns_it_on_where_memory_needs_it_and_logs_the_numbers(streaming, tiny, tmp_path, monkeypatch, caplog):
    recipe = tiny(tmp_path / "run", f"mining.streaming={streaming}", "ranker.lora.projector=full")
    mllm = load_mllm(recipe.ranker)
    data = RankingData(recipe, mllm)
    (tmp_path / "run").mkdir()
    data.prepare_data()
    data.setup("fit")
    mllm = add_lora(mllm, recipe.ranker.lora)
    caplog.set_level(logging.INFO)
    assert not decide_checkpointing(recipe, mllm, data)
    assert "gradient checkpointing off: without it about" in caplog.text
    monkeypatch.setattr(checkpointing, "device_memory", lambda args: 2e6)
    assert decide_checkpointing(recipe, mllm, data)
    assert "gradient checkpointing on: without it about" in caplog.text and "80 % of 0.0 GiB" in caplog.text
    monkeypatch.setattr(checkpointing, "device_memory", lambda args: None)
    assert not decide_checkpointing(recipe, mllm, data)


@pytest.mark.parametrize(
    ("setting", "memory", "expected"), [("auto", 1e3, True), ("auto", 1e12, False), ("false", 1e3, False)]
)
def test_a_run_recomputes_activations_where_auto_says_so(setting, memory, expected, tiny, tmp_path, monkeypatch):
    turned_on = []
    original = RankerModule.checkpoint_gradients
    monkeypatch.setattr(checkpointing, "device_memory", lambda args: memory)
    monkeypatch.setattr(RankerModule, "checkpoint_gradients", lambda self: (turned_on.append(True), original(self)))
    train_ranker(tiny(tmp_path / "run", f"trainer.gradient_checkpointing={setting}", "optim.max_steps=1"))
    assert bool(turned_on) is expected


def test_an_example_has_about_the_tokens_that_are_counted(either: Mllm, pairs):
    objectives = ("letters", "likelihood", "list")
    for example, image in pairs:
        batch = collate(either, [(example, image)], objectives, 0, [0])
        counted = example_tokens(either, example, objectives, image.size)
        assert 0.9 * batch.tokens <= counted <= 1.1 * batch.tokens  # the list may be in another order


def test_the_tokens_are_counted_without_running_the_model(pairs, monkeypatch):
    mllm = load_mllm(RankerArgs())
    monkeypatch.setattr(mllm.base.model, "forward", None)
    assert example_tokens(mllm, pairs[0][0], ("letters", "likelihood"), (96, 96)) > 0


def test_the_longest_example_is_the_one_with_the_most_text_in_its_tree():
    def example(key: str, names: list[str]) -> RankingExample:
        return RankingExample(key, 0, tuple(Candidate(label, name, 1.0) for label, name in enumerate(names)))

    examples = [
        example("long", ["azure, " * 12, "or"]),
        example("many", [f"azure, a bend {tail}" for tail in "abcdef"]),
    ]
    mllm = SimpleNamespace(reranker=None)
    data = SimpleNamespace(lengths=None, objectives=("likelihood",), val_set=MagicMock(), mllm=mllm)
    data.val_set.__len__.return_value = 2
    data.val_set.example.side_effect = examples.__getitem__
    data.val_set.image_size.side_effect = [(30, 40), (50, 10)]
    longest, size = checkpointing._longest_example(data)
    assert (longest.key, size) == ("many", (30, 40))


@pytest.mark.parametrize("value", ["on_demand", "1", "null"])
def test_any_other_value_is_refused(value, tiny, tmp_path):
    with pytest.raises(UserError, match=r"trainer\.gradient_checkpointing"):
        tiny(tmp_path, f"trainer.gradient_checkpointing={value}")
