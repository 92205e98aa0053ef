"""Each objective can be learned, and reads what it says it reads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from data_prep.settings import LoraArgs, RankerArgs
from rar_train.adapter import add_lora
from rar_train.backend import Mllm, load_mllm
from rar_train.collate import collate
from rar_train.objectives import LOSSES, TABLES


def batch_of(mllm: Mllm, pairs, objective: str):
    return collate(mllm, pairs, [objective], 0, [0] * len(pairs))


@pytest.mark.parametrize("objective", LOSSES)
def test_a_few_steps_on_one_batch_lower_the_loss(objective, pairs):
    torch.manual_seed(0)
    mllm = add_lora(load_mllm(RankerArgs()), LoraArgs(rank=8))
    # Each picture stands beside another's candidates, so that a good model too has something to learn.
    wrong = [(example, pairs[i - 1][1]) for i, (example, _) in enumerate(pairs)]
    batch = batch_of(mllm, wrong, objective)
    optimizer = torch.optim.AdamW([p for p in mllm.model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(10):
        loss = LOSSES[objective](mllm, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]


@pytest.mark.parametrize("objective", LOSSES)
def test_only_the_adapter_gets_a_gradient(fresh, objective, pairs):
    mllm = add_lora(fresh(), LoraArgs(rank=2))
    LOSSES[objective](mllm, batch_of(mllm, pairs, objective)).backward()
    reached = {name for name, parameter in mllm.model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in mllm.model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("objective", TABLES)
def test_choosing_losses_are_cross_entropies_of_the_truth_among_its_own_candidates(either: Mllm, objective, pairs):
    batch = batch_of(either, pairs, objective)
    with torch.no_grad():
        table = TABLES[objective](either, batch)
        loss = LOSSES[objective](either, batch)
    own = [
        -row[:count].log_softmax(0)[truth] for row, count, truth in zip(table, batch.counts, batch.truths, strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(own).mean())


def test_the_list_loss_reads_the_answers_tokens_alone(either: Mllm, pairs):
    batch = batch_of(either, pairs, "list")
    with torch.no_grad():
        loss = LOSSES["list"](either, batch)
        logits = either.model(**{k: v for k, v in batch.sorting.items() if k != "labels"}).logits
    labels = batch.sorting["labels"]
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
