"""The ranker's module: what trains, what stays still, what a checkpoint holds."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from data_prep.core.errors import UserError
from data_prep.settings import ObjectiveArgs, RankerArgs
from rar_train.engine.sampler import EpochSampler
from rar_train.models.lora import load_adapter, save_adapter
from rar_train.models.mllm import load_mllm
from rar_train.ranker.collate import RankingBatch, collate
from rar_train.ranker.datamodule import DataPosition
from rar_train.ranker.losses import TABLES, compute_losses
from rar_train.ranker.module import RankerModule


@pytest.fixture
def module(tiny, tmp_path) -> RankerModule:
    changes = ("ranker.lora.dropout=0.1", "optim.lr=0.02", "ranker.objectives.list=0.5")
    scope = "ranker.lora.scope=language+projector"
    return RankerModule(tiny(tmp_path, *changes, scope), load_mllm(RankerArgs()), 4)


@pytest.fixture
def trainer() -> L.Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", devices=1, max_steps=2, logger=False, num_sanity_val_steps=0, **quiet)


def loader_of(module: RankerModule, pairs, *objectives: str) -> DataLoader:
    """Two batches of the same examples, shuffled otherwise."""
    made = [
        collate(module.mllm, pairs, objectives or ("letters", "likelihood", "list"), 0, [epoch] * len(pairs))
        for epoch in range(2)
    ]
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


def test_a_frozen_projector_drops_nothing_out_and_one_in_scope_does(tiny, tmp_path):
    for scope, dropped in (("language", False), ("language+projector", True)):
        mllm = load_mllm(RankerArgs())
        connector = mllm.base.get_submodule(mllm.family.connector)
        connector.act = torch.nn.Sequential(connector.act, torch.nn.Dropout(0.5))
        module = RankerModule(tiny(tmp_path, f"ranker.lora.scope={scope}"), mllm, 4).train()
        assert connector.training and connector.act[1].training == dropped
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


class Norm(L.Callback):
    """Notes the norm of the gradient that the optimiser takes."""

    def on_before_zero_grad(self, trainer, module, optimizer):
        gradients = [p.grad.norm() for p in module.parameters() if p.grad is not None]
        if gradients:  # of the step before
            self.norm = torch.stack(gradients).norm().item()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimiser_takes_clipped_gradients(precision, tiny, pairs, tmp_path):
    recipe = tiny(tmp_path, "optim.fused=true", f"trainer.precision={precision}", "ranker.lora.rank=2")
    module, norm = RankerModule(recipe, load_mllm(RankerArgs()), 4), Norm()
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=2,
        precision=precision,
        gradient_clip_val=1e-3,
        callbacks=[norm],
        logger=False,
        **quiet,
    )
    trainer.fit(module, loader_of(module, pairs))
    assert norm.norm == pytest.approx(1e-3, rel=1e-2)


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


def step_gradient(module: RankerModule, passes: list[RankingBatch], world: int, accumulate: int, twice: bool) -> Tensor:
    """What a step's passes on all processes give the optimiser, as Trainer and strategy average them."""
    module.zero_grad()
    strategy = SimpleNamespace(handles_gradient_accumulation=twice, reduce_boolean_decision=lambda good, all: good)
    module._trainer = SimpleNamespace(world_size=world, accumulate_grad_batches=accumulate, strategy=strategy)
    for batch in passes:
        loss = module.training_step(batch, 0) / accumulate  # Lightning
        loss = loss / accumulate if twice else loss  # DeepSpeed
        (loss / world).backward()
    return torch.cat([value.grad.flatten() for value in module.parameters() if value.grad is not None])


ALL = ("letters", "likelihood", "list", "listwise")


@pytest.fixture(scope="module")
def exact(tiny, llava_folder, tmp_path_factory) -> RankerModule:
    """A module in float64 with all objectives, and an adapter that does something."""
    weights = (f"ranker.objectives.{name}=0.7" for name in ("list", "listwise"))
    recipe = tiny(tmp_path_factory.mktemp("exact"), *weights, "ranker.lora.rank=2")
    module = RankerModule(recipe, load_mllm(RankerArgs(model=str(llava_folder))), 4)
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    module.log = module.log_dict = lambda *args, **kwargs: None  # a Trainer alone may be logged to
    return module.double().train()


@pytest.fixture(scope="module")
def alone(exact, pairs) -> list[Tensor]:
    """Each example's own gradient."""
    return [step_gradient(exact, [collate(exact.mllm, [pair], ALL, 0, [0])], 1, 1, False) for pair in pairs]


cuts = st.tuples(st.integers(2, 9), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3))


@settings(max_examples=15, deadline=None)
@given(cuts, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_a_steps_gradient_is_the_mean_over_its_examples_however_it_is_cut(
    exact, alone, pairs, cut, cached, twice, random
):
    examples, batch_size, world, accumulate = cut
    shown = [random.randrange(len(pairs)) for _ in range(examples)]
    dealt = [
        list(EpochSampler(examples, batch_size, rank, world, 1, 0, DataPosition(), accumulate=accumulate))[:accumulate]
        for rank in range(world)
    ]
    passes = []
    for places in chain(*dealt):
        rows = [pairs[shown[place.row]] for place in places]
        passes.append(collate(exact.mllm, rows, ALL, 0, [0] * len(rows), cached=cached))
        passes[-1].weights = [place.weight for place in places]
    found = step_gradient(exact, passes, world, accumulate, twice)
    own = [alone[shown[place.row]] for places in chain(*dealt) for place in places if place.weight]
    expected = torch.stack(own).mean(0)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_an_objective_of_weight_zero_is_not_computed(tiny, trainer, pairs, tmp_path):
    module = RankerModule(tiny(tmp_path, "ranker.objectives.likelihood=0"), load_mllm(RankerArgs()), 4)
    trainer.fit(module, loader_of(module, pairs))
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


def forward_counts(module: RankerModule, batch) -> tuple[list[int], float]:
    """How often each decoder layer ran in one step and its backward pass, and the loss."""
    layers = module.mllm.base.get_decoder().layers
    counts = [0] * len(layers)

    def counted(number: int) -> None:
        counts[number] += 1

    for number, layer in enumerate(layers):
        layer.self_attn.register_forward_pre_hook(lambda *_, number=number: counted(number))
    module.train()
    losses, _ = compute_losses(module.mllm, batch, module.recipe.ranker.objectives)
    total = sum(loss.mean() for loss in losses.values())
    total.backward()
    return counts, total.item()


@pytest.mark.parametrize("objective", ["letters", "likelihood", "list"])
def test_gradient_checkpointing_computes_every_layer_twice_and_the_same_gradient(objective, tiny, pairs, tmp_path):
    weights = [f"ranker.objectives.{name}={int(name == objective)}" for name in ("letters", "likelihood", "list")]
    found = []
    for on in ("false", "true"):
        torch.manual_seed(0)
        module = RankerModule(
            tiny(tmp_path, *weights, f"trainer.gradient_checkpointing={on}"), load_mllm(RankerArgs()), 4
        )
        batch = collate(module.mllm, pairs, [objective], 0, [0] * 3, cached=False)
        counts, loss = forward_counts(module, batch)
        gradients = {name: value.grad for name, value in module.named_parameters() if value.requires_grad}
        found.append((counts, loss, gradients))
    (plain, loss, gradients), (twice, loss_again, gradients_again) = found
    assert set(plain) == {1} and set(twice) == {2}
    assert loss == pytest.approx(loss_again, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[name], gradient, rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_leaves_a_frozen_tower_out_of_the_backward_pass(tiny, pairs, llava_folder, tmp_path):
    settings = ("ranker.lora.scope=language", "ranker.objectives.likelihood=0", "trainer.gradient_checkpointing=true")
    module = RankerModule(tiny(tmp_path, *settings), load_mllm(RankerArgs(model=str(llava_folder))), 4)
    outputs = []
    tower = module.mllm.base.get_submodule("model.vision_tower")
    tower.register_forward_hook(lambda _, __, output: outputs.append(output.last_hidden_state))
    forward_counts(module, collate(module.mllm, pairs, ["letters"], 0, [0] * 3, cached=False))
    assert outputs and not any(output.requires_grad for output in outputs)


def test_a_vision_tower_in_scope_trains_its_convolutions_and_keeps_its_statistics(tiny, trainer, pairs, tmp_path):
    recipe = tiny(tmp_path, "ranker.lora.scope=language+projector+vision", "optim.lr=0.02")
    module = RankerModule(recipe, load_mllm(RankerArgs()), 4)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.fit(module, loader_of(module, pairs, "letters", "likelihood"))
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    tower = module.mllm.base.get_submodule("model.vision_tower")
    assert any("vision_tower.backbone" in name and "conv" in name for name in changed)
    assert tower.training and not any(m.training for m in tower.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_a_frozen_tower_gets_no_gradient(module, pairs):
    module.train()
    batch = collate(module.mllm, pairs, ["letters"], 0, [0] * 3)
    losses, _ = compute_losses(module.mllm, batch, ObjectiveArgs(likelihood=0))
    losses["letters"].mean().backward()
    tower = module.mllm.base.get_submodule("model.vision_tower")
    assert not tower.training and all(value.grad is None for value in tower.parameters())


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(module, trainer, pairs):
    with torch.no_grad():
        next(value for name, value in module.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(UserError, match=r"not a finite number at step 0 \(letters nan, .*Lower optim\.lr"):
        trainer.fit(module, loader_of(module, pairs))


def test_whole_projector_training_changes_all_its_weights_and_is_saved(tiny, trainer, pairs, tmp_path):
    recipe = tiny(tmp_path, "ranker.lora.scope=language+projector", "ranker.lora.projector=full", "optim.lr=0.02")
    module = RankerModule(recipe, load_mllm(RankerArgs()), 4)
    trainer.fit(module, loader_of(module, pairs, "letters", "likelihood"))
    save_adapter(module.mllm, tmp_path / "adapter", recipe, {})
    loaded = load_adapter(load_mllm(RankerArgs()), tmp_path / "adapter")
    mine, again = module.mllm.model.state_dict(), loaded.model.state_dict()
    whole = [name for name in mine if "multi_modal_projector.modules_to_save" in name]
    assert len(whole) == 4
    for name in whole:
        assert not torch.equal(mine[name], mine[name.replace("modules_to_save.default", "original_module")])
        assert torch.equal(mine[name], again[name])


@pytest.mark.parametrize("kind", ["dora", "rslora"])
def test_dora_and_rslora_train_and_load(kind, tiny, trainer, pairs, tmp_path):
    recipe = tiny(tmp_path, f"ranker.lora.{kind}=true", "optim.lr=0.02")
    module = RankerModule(recipe, load_mllm(RankerArgs()), 4)
    assert any("lora_magnitude_vector" in name for name, _ in module.named_parameters()) == (kind == "dora")
    trainer.fit(module, loader_of(module, pairs, "letters", "likelihood"))
    save_adapter(module.mllm, tmp_path / "adapter", recipe, {})
    loaded = load_adapter(load_mllm(RankerArgs()), tmp_path / "adapter")
    batch = collate(loaded, pairs, ["letters"], 0, [0] * 3)
    with torch.no_grad():
        module.eval()
        torch.testing.assert_close(TABLES["letters"](loaded, batch), TABLES["letters"](module.mllm, batch))


def test_compiling_takes_every_decoder_layer_and_changes_no_loss(tiny, pairs, tmp_path):
    found = []
    with torch.compiler.set_stance("force_eager"):  # what is compiled, without the minutes that compiling takes
        for on in ("false", "true"):
            torch.manual_seed(0)
            module = RankerModule(tiny(tmp_path, f"trainer.compile={on}"), load_mllm(RankerArgs()), 4)
            batch = collate(module.mllm, pairs, ["letters"], 0, [0] * 3)
            losses, _ = compute_losses(module.mllm, batch, ObjectiveArgs(likelihood=0))
            compiled = [layer._compiled_call_impl is not None for layer in module.mllm.base.get_decoder().layers]
            found.append((losses["letters"].mean().item(), all(compiled), any(compiled)))
    assert found[0][0] == found[1][0]
    assert found[0][1:] == (False, False) and found[1][1:] == (True, True)
