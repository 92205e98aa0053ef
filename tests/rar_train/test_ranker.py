"""The ranker's module: what trains, what stays still, what a checkpoint holds."""

from __future__ import annotations

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_prep.settings import RankerArgs
from rar_train.backend import load_mllm
from rar_train.collate import collate
from rar_train.objectives import TABLES
from rar_train.ranker import RankerModule


@pytest.fixture
def module(tiny, tmp_path) -> RankerModule:
    changes = ("ranker.lora.dropout=0.1", "optim.lr=0.02", "ranker.objectives.list=0.5")
    return RankerModule(tiny(tmp_path, *changes), load_mllm(RankerArgs()), 4)


@pytest.fixture
def trainer() -> L.Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", devices=1, max_steps=2, logger=False, num_sanity_val_steps=0, **quiet)


def loader_of(module: RankerModule, pairs, *objectives: str) -> DataLoader:
    """Two batches of the same examples, shuffled otherwise."""
    made = [collate(module.mllm, pairs, objectives or ("letters", "likelihood", "list"), 0, [epoch] * len(pairs)) for epoch in range(2)]
    return DataLoader(made, batch_size=None)


class Modes(L.Callback):
    """Notes which modules train while a batch is on its way."""

    def on_train_batch_start(self, trainer, module, *_):
        self.training = {name for name, part in module.named_modules() if part.training}


def test_train_mode_reaches_all_but_the_vision_tower(module):
    module.eval()
    module.train()
    still = {name for name, part in module.named_modules() if not part.training}
    tower = "model.base_model.model.model.vision_tower"
    assert still == {name for name, _ in module.named_modules() if name.startswith(tower)}
    assert not any(part.training for part in module.eval().modules())


def test_fitting_trains_in_train_mode_and_changes_the_adapter_alone(module, trainer, pairs):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = Modes()
    trainer.callbacks.append(modes)
    trainer.fit(module, loader_of(module, pairs))
    assert any("lora_dropout" in name for name in modes.training)
    assert not any("vision_tower" in name for name in modes.training)
    after = module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name}  # batch-norm statistics too hold still


def test_a_checkpoint_holds_the_adapter_alone(module, trainer, pairs, tmp_path):
    trainer.fit(module, loader_of(module, pairs))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    state = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in state)


def test_the_loss_is_the_weighted_sum_of_the_objectives(module, trainer, pairs):
    trainer.fit(module, loader_of(module, pairs))
    parts = {name: float(trainer.callback_metrics[f"train/{name}"]) for name in ("letters", "likelihood", "list")}
    total = float(trainer.callback_metrics["train/loss"])
    assert total == pytest.approx(parts["letters"] + parts["likelihood"] + 0.5 * parts["list"], rel=1e-5)


def test_an_objective_of_weight_zero_is_not_computed(tiny, trainer, pairs, tmp_path):
    module = RankerModule(tiny(tmp_path, "ranker.objectives.likelihood=0"), load_mllm(RankerArgs()), 4)
    trainer.fit(module, loader_of(module, pairs, "letters"))
    assert "train/letters" in trainer.callback_metrics and "train/likelihood" not in trainer.callback_metrics


def test_dropout_repeats_for_the_same_batch_and_differs_for_another(module, trainer, pairs):
    loader = loader_of(module, pairs)
    trainer.fit(module, loader)
    batch = loader.dataset[0]
    module.log = module.log_dict = lambda *args, **kwargs: None  # a Trainer alone may be logged to
    module.train()

    def loss(number: int) -> float:
        module.on_train_batch_start(batch, number)
        return float(module.training_step(batch, number))

    assert loss(3) == loss(3)
    assert loss(3) != loss(4)


def test_validation_reports_the_share_of_truths_ranked_first_in_both_modes(module, trainer, pairs):
    loader = loader_of(module, pairs)
    (found,) = trainer.validate(module, loader, verbose=False)
    text = {f"val/generate{outcome}" for outcome in ("", "_ok", "_repaired", "_unreadable")}
    assert set(found) == {"val/loss", "val/letters", "val/likelihood"} | text
    assert sum(found[f"val/generate_{outcome}"] for outcome in ("ok", "repaired", "unreadable")) == pytest.approx(1)
    for mode, table in TABLES.items():
        with torch.no_grad():
            ranked = [
                (row.argmax().item(), truth) for b in loader for row, truth in zip(table(module.mllm, b), b.truths)
            ]
        assert found[f"val/{mode}"] == pytest.approx(np.mean([first == truth for first, truth in ranked]))


def test_the_optimiser_holds_the_adapter_alone_at_the_recipes_rate(module):
    optimizer = module.configure_optimizers()["optimizer"]
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for name, p in module.named_parameters() if "lora_" in name)
    assert optimizer.defaults["lr"] == 0.02
