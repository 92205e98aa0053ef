"""The ranker's module: which parts train, which stay frozen, and what a checkpoint holds."""

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
from rar_train.engine.sampler import DataPosition, EpochPlan, EpochSampler
from rar_train.models.loading import load_mllm
from rar_train.models.lora import load_adapter, save_adapter
from rar_train.models.scoring import takes_trees
from rar_train.ranker.collate import RankingBatch, collate
from rar_train.ranker.losses import compute_losses, score_batch
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


def make_loader(module: RankerModule, pairs, *objectives: str) -> DataLoader:
    """Makes two batches of the same examples, with differently shuffled candidates."""
    batches = [
        collate(module.mllm, pairs, objectives or ("letters", "likelihood", "list"), 0, [epoch] * len(pairs))
        for epoch in range(2)
    ]
    return DataLoader(batches, batch_size=None)


class Modes(L.Callback):
    """Records which modules are in training mode at a batch's start."""

    def on_train_batch_start(self, trainer, module, *_):
        self.training = {name for name, part in module.named_modules() if part.training}


def test_train_mode_reaches_all_but_the_vision_tower(module):
    module.eval()
    module.train()
    in_eval = {name for name, part in module.named_modules() if not part.training}
    tower = "model.base_model.model.model.vision_tower"
    assert in_eval == {name for name, _ in module.named_modules() if name.startswith(tower)}
    assert not any(part.training for part in module.eval().modules())


def test_dropout_is_off_in_a_frozen_projector_and_on_in_one_in_scope(tiny, tmp_path):
    for scope, dropped in (("language", False), ("language+projector", True)):
        mllm = load_mllm(RankerArgs())
        connector = mllm.base.get_submodule(mllm.family.connector)
        connector.act = torch.nn.Sequential(connector.act, torch.nn.Dropout(0.5))
        module = RankerModule(tiny(tmp_path, f"ranker.lora.scope={scope}"), mllm, 4).train()
        assert connector.training and connector.act[1].training == dropped
        assert not any(part.training for part in module.eval().modules())


def test_fitting_trains_in_train_mode_and_changes_only_the_adapter(module, trainer, pairs):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = Modes()
    trainer.callbacks.append(modes)
    trainer.fit(module, make_loader(module, pairs))
    assert any("lora_dropout" in name for name in modes.training)
    assert not any("vision_tower" in name for name in modes.training)
    after = module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name}  # batch-norm statistics do not change either


class Norm(L.Callback):
    """Records the norm of the gradient that the optimiser applies."""

    def on_before_zero_grad(self, trainer, module, optimizer):
        gradients = [p.grad.norm() for p in module.parameters() if p.grad is not None]
        if gradients:  # of the step before
            self.norm = torch.stack(gradients).norm().item()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimiser_applies_clipped_gradients(precision, tiny, pairs, tmp_path):
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
    trainer.fit(module, make_loader(module, pairs))
    assert norm.norm == pytest.approx(1e-3, rel=1e-2)


def test_a_checkpoint_holds_only_the_adapter(module, trainer, pairs, tmp_path):
    trainer.fit(module, make_loader(module, pairs))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    state = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in state)


def test_the_loss_is_the_weighted_sum_of_the_objectives(module, trainer, pairs):
    trainer.fit(module, make_loader(module, pairs))
    parts = {name: float(trainer.callback_metrics[f"train/{name}"]) for name in ("letters", "likelihood", "list")}
    total = float(trainer.callback_metrics["train/loss"])
    assert total == pytest.approx(parts["letters"] + parts["likelihood"] + 0.5 * parts["list"], rel=1e-5)


def step_gradient(module: RankerModule, passes: list[RankingBatch], world: int, accumulate: int, twice: bool) -> Tensor:
    """Computes the gradient of a step over passes and processes, averaged as Trainer and strategy do."""
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
    """A module in float64 with all objectives, and an adapter with a nonzero effect."""
    weights = (f"ranker.objectives.{name}=0.7" for name in ("list", "listwise"))
    recipe = tiny(tmp_path_factory.mktemp("exact"), *weights, "ranker.lora.rank=2")
    module = RankerModule(recipe, load_mllm(RankerArgs(model=str(llava_folder))), 4)
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    module.log = module.log_dict = lambda *args, **kwargs: None  # logging needs a Trainer
    return module.double().train()


@pytest.fixture(scope="module")
def example_gradients(exact, pairs) -> list[Tensor]:
    """The gradient of each example by itself."""
    return [step_gradient(exact, [collate(exact.mllm, [pair], ALL, 0, [0])], 1, 1, False) for pair in pairs]


splits = st.tuples(st.integers(2, 9), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3))


@settings(max_examples=15, deadline=None)
@given(splits, st.booleans(), st.randoms(use_true_random=False))
def test_a_steps_gradient_is_the_mean_over_its_examples_however_it_is_split(
    exact, example_gradients, pairs, split, twice, random
):
    examples, batch_size, world, accumulate = split
    chosen = [random.randrange(len(pairs)) for _ in range(examples)]
    plan = EpochPlan(examples, batch_size, world, 1, 0, accumulate=accumulate)
    batches = [list(EpochSampler(plan, rank, DataPosition()))[:accumulate] for rank in range(world)]
    passes = []
    for batch in chain(*batches):
        rows = [pairs[chosen[sampled.row]] for sampled in batch]
        passes.append(collate(exact.mllm, rows, ALL, 0, [0] * len(rows)))
        passes[-1].weights = [sampled.weight for sampled in batch]
    gradient = step_gradient(exact, passes, world, accumulate, twice)
    counted = [sampled.row for batch in chain(*batches) for sampled in batch if sampled.weight]
    expected = torch.stack([example_gradients[chosen[row]] for row in counted]).mean(0)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()


def test_an_objective_of_weight_zero_is_not_computed(tiny, trainer, pairs, tmp_path):
    module = RankerModule(tiny(tmp_path, "ranker.objectives.likelihood=0"), load_mllm(RankerArgs()), 4)
    trainer.fit(module, make_loader(module, pairs))
    assert "train/letters" in trainer.callback_metrics and "train/likelihood" not in trainer.callback_metrics


def test_dropout_repeats_for_the_same_batch_and_differs_for_another(module, trainer, pairs):
    loader = make_loader(module, pairs)
    trainer.fit(module, loader)
    batch = loader.dataset[0]
    module.log = module.log_dict = lambda *args, **kwargs: None  # logging needs a Trainer
    module.train()

    def loss(batch_idx: int) -> float:
        module.on_train_batch_start(batch, batch_idx)
        return float(module.training_step(batch, batch_idx))

    assert loss(3) == loss(3)
    assert loss(3) != loss(4)


def test_validation_reports_the_share_of_truths_ranked_first_in_both_modes(module, trainer, pairs):
    loader = make_loader(module, pairs)
    (metrics,) = trainer.validate(module, loader, verbose=False)
    generated = {f"val/generate{outcome}" for outcome in ("", "_ok", "_repaired", "_unreadable")}
    assert set(metrics) == {"val/loss", "val/letters", "val/likelihood", "val/retriever"} | generated
    assert metrics["val/retriever"] == pytest.approx(1 / 3)  # of example b
    assert sum(metrics[f"val/generate_{outcome}"] for outcome in ("ok", "repaired", "unreadable")) == pytest.approx(1)
    for mode in ("letters", "likelihood"):
        with torch.no_grad():
            ranked = [
                (row.argmax().item(), truth)
                for batch in loader
                for row, truth in zip(score_batch(module.mllm, batch).tables[mode], batch.truths, strict=True)
            ]
        assert metrics[f"val/{mode}"] == pytest.approx(np.mean([first == truth for first, truth in ranked]))


def test_the_optimiser_has_only_the_adapter_at_the_recipes_learning_rate(module):
    optimizer = module.configure_optimizers()["optimizer"]
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for name, p in module.named_parameters() if "lora_" in name)
    assert optimizer.defaults["lr"] == 0.02


def forward_counts(module: RankerModule, batch) -> tuple[list[int], float]:
    """Counts how often each decoder layer runs in one step and its backward pass; also returns the loss."""
    assert takes_trees(module.mllm)
    layers = module.mllm.base.get_decoder().layers
    counts = [0] * len(layers)

    def count(index: int) -> None:
        counts[index] += 1

    for index, layer in enumerate(layers):
        layer.self_attn.register_forward_pre_hook(lambda *_, index=index: count(index))
    module.train()
    losses = compute_losses(module.mllm, batch, module.recipe.ranker.objectives).values
    total = sum(loss.mean() for loss in losses.values())
    total.backward()
    return counts, total.item()


@pytest.mark.parametrize("objective", ["letters", "likelihood", "list"])
def test_gradient_checkpointing_computes_every_layer_twice_and_the_same_gradient(objective, tiny, pairs, tmp_path):
    weights = [f"ranker.objectives.{name}={int(name == objective)}" for name in ("letters", "likelihood", "list")]
    runs = []
    for on in ("false", "true"):
        torch.manual_seed(0)
        module = RankerModule(
            tiny(tmp_path, *weights, f"trainer.gradient_checkpointing={on}"), load_mllm(RankerArgs()), 4
        )
        batch = collate(module.mllm, pairs, [objective], 0, [0] * 3)
        counts, loss = forward_counts(module, batch)
        gradients = {name: value.grad for name, value in module.named_parameters() if value.requires_grad}
        runs.append((counts, loss, gradients))
    (plain, loss, gradients), (twice, loss_again, gradients_again) = runs
    assert set(plain) == {1} and set(twice) == {2}
    assert loss == pytest.approx(loss_again, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[name], gradient, rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_excludes_a_frozen_tower_from_the_backward_pass(tiny, pairs, llava_folder, tmp_path):
    settings = ("ranker.lora.scope=language", "ranker.objectives.likelihood=0", "trainer.gradient_checkpointing=true")
    module = RankerModule(tiny(tmp_path, *settings), load_mllm(RankerArgs(model=str(llava_folder))), 4)
    outputs = []
    tower = module.mllm.base.get_submodule("model.vision_tower")
    tower.register_forward_hook(lambda _, __, output: outputs.append(output.last_hidden_state))
    forward_counts(module, collate(module.mllm, pairs, ["letters"], 0, [0] * 3))
    assert outputs and not any(output.requires_grad for output in outputs)


def test_a_vision_tower_in_scope_trains_convolutions_but_not_batch_norm_statistics(tiny, trainer, pairs, tmp_path):
    recipe = tiny(tmp_path, "ranker.lora.scope=language+projector+vision", "optim.lr=0.02")
    module = RankerModule(recipe, load_mllm(RankerArgs()), 4)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.fit(module, make_loader(module, pairs, "letters", "likelihood"))
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    tower = module.mllm.base.get_submodule("model.vision_tower")
    assert any("vision_tower.backbone" in name and "conv" in name for name in changed)
    assert tower.training and not any(m.training for m in tower.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_a_frozen_tower_gets_no_gradient(module, pairs):
    module.train()
    batch = collate(module.mllm, pairs, ["letters"], 0, [0] * 3)
    losses = compute_losses(module.mllm, batch, ObjectiveArgs(likelihood=0)).values
    losses["letters"].mean().backward()
    tower = module.mllm.base.get_submodule("model.vision_tower")
    assert not tower.training and all(value.grad is None for value in tower.parameters())


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(module, trainer, pairs):
    with torch.no_grad():
        next(value for name, value in module.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(UserError, match=r"not a finite number at step 0 \(letters nan, .*Lower optim\.lr"):
        trainer.fit(module, make_loader(module, pairs))


def test_full_projector_training_changes_all_its_weights_and_is_saved(tiny, trainer, pairs, tmp_path):
    recipe = tiny(tmp_path, "ranker.lora.scope=language+projector", "ranker.lora.projector=full", "optim.lr=0.02")
    module = RankerModule(recipe, load_mllm(RankerArgs()), 4)
    trainer.fit(module, make_loader(module, pairs, "letters", "likelihood"))
    save_adapter(module.mllm, tmp_path / "adapter", recipe, {})
    loaded = load_adapter(load_mllm(RankerArgs()), tmp_path / "adapter")
    trained, reloaded = module.mllm.model.state_dict(), loaded.model.state_dict()
    full = [name for name in trained if "multi_modal_projector.modules_to_save" in name]
    assert len(full) == 4
    for name in full:
        assert not torch.equal(trained[name], trained[name.replace("modules_to_save.default", "original_module")])
        assert torch.equal(trained[name], reloaded[name])


@pytest.mark.parametrize("kind", ["dora", "rslora"])
def test_dora_and_rslora_train_and_load(kind, tiny, trainer, pairs, tmp_path):
    recipe = tiny(tmp_path, f"ranker.lora.{kind}=true", "optim.lr=0.02")
    module = RankerModule(recipe, load_mllm(RankerArgs()), 4)
    assert any("lora_magnitude_vector" in name for name, _ in module.named_parameters()) == (kind == "dora")
    trainer.fit(module, make_loader(module, pairs, "letters", "likelihood"))
    save_adapter(module.mllm, tmp_path / "adapter", recipe, {})
    loaded = load_adapter(load_mllm(RankerArgs()), tmp_path / "adapter")
    batch = collate(loaded, pairs, ["letters"], 0, [0] * 3)
    with torch.no_grad():
        module.eval()
        here, there = (score_batch(mllm, batch).tables["letters"] for mllm in (module.mllm, loaded))
        torch.testing.assert_close(there, here)


def test_compiling_covers_every_decoder_layer_and_changes_no_loss(tiny, pairs, tmp_path):
    runs = []
    with torch.compiler.set_stance("force_eager"):  # checks which layers are compiled, without minutes of compilation
        for on in ("false", "true"):
            torch.manual_seed(0)
            module = RankerModule(tiny(tmp_path, f"trainer.compile={on}"), load_mllm(RankerArgs()), 4)
            batch = collate(module.mllm, pairs, ["letters"], 0, [0] * 3)
            losses = compute_losses(module.mllm, batch, ObjectiveArgs(likelihood=0)).values
            compiled = [layer._compiled_call_impl is not None for layer in module.mllm.base.get_decoder().layers]
            runs.append((losses["letters"].mean().item(), all(compiled), any(compiled)))
    assert runs[0][0] == runs[1][0]
    assert runs[0][1:] == (False, False) and runs[1][1:] == (True, True)
