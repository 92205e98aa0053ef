"""Computations stay on the model's device; tested without a GPU by torch's fake tensors, which have no values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensorMode

from data_prep.embedding.encoder import load_encoder
from data_prep.settings import LoraArgs, ObjectiveArgs, RankerArgs, RetrieverArgs, TuningArgs
from data_prep.settings.loading import load_recipe
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora
from rar_train.models.mllm import Mllm
from rar_train.models.scoring import takes_trees
from rar_train.ranker.collate import collate
from rar_train.ranker.losses import compute_losses
from rar_train.retriever.module import RetrieverModule, prepare_model
from tests.rar_train.lite.test_mllm import tiny_join


def _some_value(mode: FakeTensorMode, function, value: Tensor) -> bool | int | float:
    """Returns 1 for a fake tensor that is read; models only read whether image tokens fit, and lengths of rows."""
    return torch.ones((), dtype=value.dtype).item()


@contextmanager
def fake_gpu(model: nn.Module) -> Iterator[None]:
    """Moves the model's weights to a fake GPU within the block."""
    read = torch.ops.aten._local_scalar_dense.default
    with (
        mock.patch.dict(fake_impls.op_implementations_dict, {read: _some_value}),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        for module in model.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    moved = torch.empty_like(value, device="cuda")
                    module._parameters[name] = nn.Parameter(moved, requires_grad=value.requires_grad)
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = torch.empty_like(value, device="cuda")
        yield


def make_nano() -> Mllm:
    return add_lora(load_mllm(RankerArgs()), LoraArgs(scope="language+projector+vision"))


def make_lite(folder) -> Mllm:
    model, processor, *_ = tiny_join()
    model.set_names([[7, 8, 9], [7, 5]], fill=6)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return add_lora(load_mllm(RankerArgs(model=str(folder))), LoraArgs(scope="language+projector"))


@pytest.mark.parametrize("kind", ["nano", "lite"])
def test_every_objective_is_computed_on_the_models_device(kind, pairs, tmp_path):
    mllm = make_nano() if kind == "nano" else make_lite(tmp_path)
    mllm.model.train()
    batch = collate(mllm, pairs, ["letters", "likelihood", "listwise", "list", "reward_letters"], 0, [0] * 3)
    assert takes_trees(mllm)
    with fake_gpu(mllm.model):
        scored = compute_losses(mllm, batch, ObjectiveArgs(list=1, listwise=1, reward_letters=1))
        values = (*scored.values.values(), *scored.tables.values(), *scored.curves.values())
        assert {value.device.type for value in values} == {"cuda"}


@pytest.mark.parametrize("rank", [0, 4])
def test_the_retriever_is_tuned_and_validated_on_its_device(rank):
    encoder = load_encoder(RetrieverArgs())
    model = prepare_model(encoder.model, TuningArgs(lora_rank=rank, towers="both"))
    names = torch.ones(5, 2, encoder.model.context_length, dtype=torch.long)
    module = RetrieverModule(load_recipe(["recipe=retriever_clip"]), model, names, 4)
    logged: dict[str, Tensor] = {}
    module.log, module.log_dict = (
        lambda name, value, **_: logged.update({name: value}),
        lambda new, **_: logged.update(new),
    )
    module._trainer = SimpleNamespace(world_size=1)
    with fake_gpu(model), mock.patch.object(RetrieverModule, "device", torch.device("cuda")):
        pixels = torch.empty(4, 3, 48, 48, device="cuda")
        ids, labels = torch.ones(4, names.shape[-1], dtype=torch.long, device="cuda"), torch.arange(4, device="cuda")
        module.training_step((pixels, ids, labels), 0)
        module.on_validation_epoch_start()
        module.validation_step((pixels, labels), 0)
        assert {value.device.type for value in logged.values()} == {"cuda"}
