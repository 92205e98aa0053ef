"""The head in float32: exact values and gradients, in chunks, with a bias, a cap, an adapter or a trained weight."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rar_train.models import head as head_module
from rar_train.models.head import letter_logits, token_log_probs

STATES, READS, TARGETS = torch.randn(7, 6, generator=torch.Generator().manual_seed(0)), [0, 3, 3, 6, 1], [4, 0, 9, 9, 2]


def make_mllm(head: nn.Module, cap: float | None = None) -> SimpleNamespace:
    config = SimpleNamespace(to_dict=lambda: {"final_logit_softcapping": cap})
    base = SimpleNamespace(get_output_embeddings=lambda: head, config=SimpleNamespace(get_text_config=lambda: config))
    return SimpleNamespace(base=base, family=SimpleNamespace(softcap=cap is not None, scaled=False))


def make_head(bias: bool = False, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 11, bias=bias).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("chunk", [1, 12, 33, 2**26])
@pytest.mark.parametrize("cap", [None, 0.5])
@pytest.mark.parametrize("bias", [False, True])
def test_log_probabilities_and_their_gradients_are_those_of_all_logits(chunk, cap, bias, monkeypatch):
    monkeypatch.setattr(head_module, "_CHUNK", chunk)
    head, reads, targets = make_head(bias), torch.tensor(READS), torch.tensor(TARGETS)
    weights, runs = torch.randn(5), []
    for exact in (False, True):
        states = STATES.clone().requires_grad_()
        if exact:
            logits = head(states)
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
            values = logits.log_softmax(-1)[reads, targets]
        else:
            values = token_log_probs(make_mllm(head, cap), states, reads, targets)
        (values @ weights).backward()
        runs.append((values.detach(), states.grad))
    for ours, expected in zip(*runs, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_heads_give_float32_scores_that_do_not_tie(autocast):
    head, states = make_head(dtype=torch.bfloat16), 8 * STATES.bfloat16()
    expected = states.float() @ head.weight.float().T
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = letter_logits(make_mllm(head), states, [9, 2, 4])
        log_probs = token_log_probs(make_mllm(head), states, torch.tensor(READS), torch.tensor(TARGETS))
    torch.testing.assert_close(logits, expected[:, [9, 2, 4]])
    torch.testing.assert_close(log_probs, expected.log_softmax(-1)[READS, TARGETS])
    assert not torch.equal(logits, logits.bfloat16().float())


def test_a_trained_head_gets_its_gradient():
    head = make_head(dtype=torch.bfloat16).requires_grad_()
    token_log_probs(make_mllm(head), STATES, torch.tensor(READS), torch.tensor(TARGETS)).sum().backward()
    letter_logits(make_mllm(head), STATES, [1]).sum().backward()
    assert head.weight.grad.abs().sum() > 0


def test_a_heads_adapter_takes_part():
    import peft

    model = peft.get_peft_model(
        nn.ModuleDict({"head": make_head()}), peft.LoraConfig(r=2, target_modules=["head"], init_lora_weights=False)
    )
    head = model.base_model.model["head"]
    expected = head(STATES)
    torch.testing.assert_close(letter_logits(make_mllm(head), STATES, [9, 2]), expected[:, [9, 2]])
    log_probs = token_log_probs(make_mllm(head), STATES, torch.tensor(READS), torch.tensor(TARGETS))
    torch.testing.assert_close(log_probs, expected.log_softmax(-1)[READS, TARGETS])
    log_probs.sum().backward()
    assert head.lora_A["default"].weight.grad.abs().sum() > 0
