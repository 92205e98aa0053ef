"""The memory estimate follows types, strategies and sizes, and what real layers keep for the backward pass."""

from __future__ import annotations

from contextlib import nullcontext

import peft
import pytest
import torch
import transformers as hf

from data_prep.settings import TrainerArgs
from data_prep.settings.loading import load_recipe
from rar_train.engine import memory_estimate
from rar_train.engine.memory_estimate import ModelSizes, device_memory, estimate

SEVEN_BILLION = ModelSizes(1_000_000, 7_001_000_000, 4096, 11008, 32)


def needed(*settings: str, tokens: int = 500, checkpointing: bool = False, sizes: ModelSizes = SEVEN_BILLION):
    return estimate(load_recipe(["recipe=ranker_lora", *settings]), sizes, tokens, checkpointing)


def test_estimates_follow_types_and_stages():
    default = needed()
    assert default.weights == 28e9 and default.optimiser == 8e6 and default.adapter == 8e6
    assert needed("ranker.dtype=bfloat16").weights == 14e9
    eight = ("trainer.devices=8", "trainer.strategy=deepspeed_stage_3")
    assert needed(*eight).weights == 3.5e9 and needed(*eight).optimiser == 1e6
    assert needed("trainer.devices=8", "trainer.strategy=deepspeed_stage_2").weights == 28e9
    assert needed(*eight, "trainer.offload=all").weights == 0
    assert needed(checkpointing=True).activations < default.activations / 10
    assert needed("optim.batch_size=32").activations == 2 * default.activations
    assert needed(tokens=1000).activations == 2 * default.activations


def kept_bytes(model: torch.nn.Module, ids: torch.Tensor, half: bool) -> int:
    """Returns the bytes that a forward pass keeps for the backward pass, parameters left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        if value.untyped_storage().data_ptr() not in parameters:
            kept[value.untyped_storage().data_ptr()] = value
        return value

    precision = torch.autocast("cpu", torch.bfloat16) if half else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), precision:
        model.base_model.model.model(input_ids=ids)
    return sum(value.untyped_storage().nbytes() for value in kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("config", "intermediate", "heads"),
    [(hf.LlamaConfig, 344, 4), (hf.Qwen2Config, 677, 1), (hf.Qwen3Config, 384, 2)],  # LLaVA, Qwen2.5-VL and Qwen3-VL
)
def test_activations_are_estimated_within_a_fifth_of_what_real_layers_keep(
    config, intermediate, heads, half, checkpointing
):
    text = config(
        vocab_size=50, hidden_size=128, intermediate_size=intermediate, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=heads, head_dim=32,
    )  # fmt: skip
    model = hf.AutoModelForCausalLM.from_config(text, dtype=torch.bfloat16 if half else torch.float32)
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=layers)).train()
    if checkpointing:
        model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.ones(2, 128, dtype=torch.long)
    settings = ("optim.batch_size=2", *(("trainer.precision=bf16-mixed",) if half else ()))
    expected = needed(*settings, tokens=128, checkpointing=checkpointing, sizes=ModelSizes.of(text, 0, 0)).activations
    if checkpointing:  # the layer that is being recomputed keeps its values during the backward pass alone
        expected -= needed(*settings, tokens=128, sizes=ModelSizes.of(text, 0, 0)).activations / 6
    # The final norm keeps its input too.
    assert expected == pytest.approx(kept_bytes(model, ids, half), rel=0.2 + 0.15 * checkpointing)


def test_a_devices_memory_is_the_gpus_or_a_share_of_the_machines(monkeypatch):
    whole = device_memory(TrainerArgs(accelerator="cpu"))
    assert whole == 2 * device_memory(TrainerArgs(accelerator="cpu", devices=2)) > 2**28
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpus = {0: 80 * 2**30, 1: 24 * 2**30}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: type("Gpu", (), {"total_memory": gpus[index]})
    )
    monkeypatch.setattr(memory_estimate, "local_gpu_index", lambda: 1)
    assert device_memory(TrainerArgs()) == gpus[1]
    monkeypatch.delattr("os.sysconf")  # as on Windows
    assert device_memory(TrainerArgs(accelerator="cpu")) is None


@pytest.mark.parametrize(
    ("config", "width"),
    [
        (hf.Qwen3VLConfig(), 22016),
        (hf.Qwen3_5MoeConfig(), 8 * 512 + 512),
        (hf.Qwen3VLMoeConfig(), 5632),
        (hf.Glm4vMoeConfig(), 8 * 1408),
        (hf.Gemma3nConfig(), 16384),
    ],
)
def test_the_feed_forward_width_is_that_of_the_experts_which_a_token_passes(config, width):
    assert ModelSizes.of(config, 0, 0).intermediate == width
