"""The policy gradient is that of the expected reward, and training with it raises the reward."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from data_prep.settings import LoraArgs, ObjectiveArgs, RankerArgs, RewardArgs
from data_prep.settings.ranker import OBJECTIVES, REWARDED
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora
from rar_train.ranker.collate import collate
from rar_train.ranker.losses import compute_losses, score_batch
from rar_train.ranker.reward import REWARDS, leave_one_out, policy_loss, sample_orders, step_log_probs

NONE = float("-inf")
scores = st.lists(st.floats(-4, 4, allow_nan=False, width=32), min_size=2, max_size=5).map(torch.tensor)


def enumerate_policy(row: Tensor) -> tuple[Tensor, Tensor]:
    """Lists all orders of a row's candidates, with their Plackett-Luce probabilities."""
    orders = torch.tensor(list(permutations(range(len(row)))))
    ordered = row[orders]
    probabilities = torch.ones(len(orders), dtype=row.dtype)
    for draw in range(len(row)):
        probabilities = probabilities * ordered[:, draw:].softmax(1)[:, 0]
    return orders, probabilities


def expected_reward(row: Tensor, truth: int, metric: str) -> Tensor:
    orders, probabilities = enumerate_policy(row)
    positions = (orders == truth).float().argmax(1)
    return (probabilities * REWARDS[metric](positions)).sum()


@given(scores)
def test_an_orders_log_probability_is_plackett_luces(row):
    orders, probabilities = enumerate_policy(row.double())
    drawn, _ = step_log_probs(row.double()[None], orders[None])
    torch.testing.assert_close(drawn.sum(-1)[0].exp(), probabilities)
    assert probabilities.sum().item() == pytest.approx(1)


def test_orders_are_sampled_with_their_probabilities():
    row = torch.tensor([0.5, -0.3, 1.2])
    torch.manual_seed(0)
    sampled = sample_orders(torch.stack([row, torch.tensor([0.1, 0.2, NONE])]), 20_000)
    orders, probabilities = enumerate_policy(row)
    for order, probability in zip(orders, probabilities, strict=True):
        assert (sampled[0] == order).all(1).float().mean().item() == pytest.approx(probability.item(), abs=0.01)
    assert (sampled[1, :, 2] == 2).all()


@pytest.mark.parametrize("metric", REWARDS)
def test_the_gradient_is_that_of_the_expected_reward(metric):
    table = torch.tensor([[0.4, -0.2, 0.9, 0.1], [1.0, 0.3, -0.5, NONE]], requires_grad=True)
    truths = torch.tensor([3, 1])
    torch.manual_seed(0)
    loss = policy_loss(table, truths, RewardArgs(metric, 60_000, 0.0), None)
    loss.values.sum().backward()
    exact = table.detach().clone().requires_grad_()
    expected = torch.stack([expected_reward(exact[0], 3, metric), expected_reward(exact[1, :3], 1, metric)])
    (-expected.sum()).backward()
    torch.testing.assert_close(loss.values, -expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(table.grad, exact.grad, atol=5e-3, rtol=0)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_each_sample_is_compared_with_the_mean_of_the_others(rewards):
    row = torch.tensor(rewards, dtype=torch.float64)
    expected = [row[i] - torch.cat([row[:i], row[i + 1 :]]).mean() for i in range(len(row))]
    torch.testing.assert_close(leave_one_out(row[None])[0], torch.stack(expected))


def test_the_divergence_is_that_of_the_draws_until_the_truth_and_zero_from_itself():
    table = torch.tensor([[0.4, -0.2, 0.9]], requires_grad=True)
    base = torch.tensor([[0.0, 0.8, -0.1]])
    torch.manual_seed(0)
    divergence = policy_loss(table, torch.tensor([2]), RewardArgs(kl=1.0, samples=60_000), base).curves["kl"]
    orders, probabilities = enumerate_policy(table[0].detach())
    total = torch.zeros(())
    for order, probability in zip(orders.tolist(), probabilities, strict=True):
        for draw in range(order.index(2) + 1):
            left = order[draw:]
            own, other = table[0].detach()[left].log_softmax(0), base[0][left].log_softmax(0)
            total += probability * (own.exp() * (own - other)).sum()
    assert divergence.item() == pytest.approx(total.item(), abs=5e-3)
    itself = policy_loss(table, torch.tensor([2]), RewardArgs(kl=1.0), table.detach())
    assert itself.curves["kl"].item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(itself.values.sum(), table)[0].isfinite().all()


def test_rows_with_fewer_candidates_have_finite_gradients():
    table = torch.tensor([[0.4, NONE, NONE], [0.1, 0.2, 0.3]], requires_grad=True)
    base = torch.tensor([[0.0, NONE, NONE], [0.3, 0.2, 0.1]])
    policy_loss(table, torch.tensor([0, 1]), RewardArgs(kl=0.5), base).values.sum().backward()
    assert table.grad.isfinite().all() and (table.grad[0] == 0).all()


@pytest.mark.parametrize("objective", REWARDED)
def test_a_few_steps_raise_the_reward(objective, pairs):
    torch.manual_seed(0)
    mllm = add_lora(load_mllm(RankerArgs()), LoraArgs(rank=8))
    wrong = [(example, pairs[i - 1][1]) for i, (example, _) in enumerate(pairs)]
    batch = collate(mllm, wrong, [objective], 0, [0] * len(pairs))
    zeros = dict.fromkeys(OBJECTIVES, 0.0)
    args = ObjectiveArgs(**(zeros | {objective: 1.0}), reward=RewardArgs(samples=32, kl=0.01))
    optimizer = torch.optim.AdamW([p for p in mllm.model.parameters() if p.requires_grad], lr=2e-3)
    truths = torch.tensor(batch.truths)

    def probability() -> float:
        with torch.no_grad():
            (table,) = score_batch(mllm, batch).tables.values()
        return table.softmax(1)[range(len(truths)), truths].mean().item()

    before = probability()
    for _ in range(8):
        losses = compute_losses(mllm, batch, args)
        assert losses.curves.keys() == {"reward", "kl", "entropy"}
        optimizer.zero_grad()
        losses.values[objective].mean().backward()
        optimizer.step()
    assert probability() > before + 0.02
