"""Policy gradients on a table of scores: rankings are sampled from it, without generation, and rewarded.

A row of scores defines a Plackett-Luce policy over the orders of its candidates: the first is drawn from the softmax of
all scores, the next from that of the remaining ones, and so on. All orders are sampled from the scores of one forward
pass. A reward depends on where the true class is, so what is drawn after it does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from data_prep.settings import RewardArgs


def _reciprocal_rank(positions: Tensor) -> Tensor:
    return 1 / (positions + 1)


def _top1(positions: Tensor) -> Tensor:
    return (positions == 0).float()


REWARDS = {"reciprocal_rank": _reciprocal_rank, "top1": _top1}
"""Rewards in 0 to 1 by name, from the position of the true class, which counts from 0."""


@dataclass(frozen=True)
class PolicyLoss:
    """What one table of scores gives.

    Attributes:
        values: Per example, shape ``[n]``: its value is the mean reward of the samples with the sign changed, plus the
            weighted KL divergence; its gradient is the policy gradient.
        curves: Means for the logs: ``reward``, ``kl`` and ``entropy`` of the first choice, in nats.
    """

    values: Tensor
    curves: dict[str, Tensor]


def sample_orders(table: Tensor, samples: int) -> Tensor:
    """Samples orders of each row's candidates from the Plackett-Luce policy, by Gumbel noise (arXiv 1903.06059).

    Args:
        table: Scores, ``-inf`` beyond a row's candidates, shape ``[n, k]``.
        samples: Orders per row.

    Returns:
        Tensor: Positions, best first, shape ``[n, samples, k]``; those beyond a row's candidates are last.
    """
    shape = (len(table), samples, table.shape[1])
    # From the CPU's generator, so that a run samples the same orders on every device.
    gumbel = -torch.empty(shape, dtype=torch.float32).exponential_().log()
    return (table.detach()[:, None, :] + gumbel.to(table.device)).argsort(-1, descending=True)


def step_log_probs(table: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the distribution of every draw of sampled orders.

    Args:
        table: Scores, shape ``[n, k]``.
        orders: From ``sample_orders``, shape ``[n, s, k]``.

    Returns:
        tuple[Tensor, Tensor]: Log-probability of each draw, shape ``[n, s, k]``; and of each candidate in each draw,
        shape ``[n, s, k, k]``, in the order of the sample, ``-inf`` for those that are drawn before or do not exist.
    """
    scores = table[:, None, :].expand(-1, orders.shape[1], -1).gather(-1, orders)
    remaining = torch.ones(scores.shape[-1], scores.shape[-1], dtype=torch.bool, device=table.device).triu()
    # A draw beyond a row's candidates has nothing left: zeros keep its gradient finite, and it is not counted.
    each = scores[..., None, :].masked_fill(~remaining, float("-inf")).masked_fill(~scores.isfinite()[..., None], 0)
    log_probs = each.log_softmax(-1)
    return log_probs.diagonal(dim1=-2, dim2=-1), log_probs


def leave_one_out(rewards: Tensor) -> Tensor:
    """Subtracts from each sample's reward the mean of the others', shape ``[n, samples]`` (RLOO, arXiv 2402.14740)."""
    samples = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * samples / (samples - 1)


def _kl(own: Tensor, reference: Tensor) -> Tensor:
    """Computes the KL divergence of each draw's distribution from the reference's, shape ``[n, s, k]``."""
    impossible = ~(own.isfinite() & reference.isfinite())  # masked before the product, or its gradient would be NaN
    own, reference = own.masked_fill(impossible, 0), reference.masked_fill(impossible, 0)
    return (own.exp() * (own - reference)).masked_fill(impossible, 0).sum(-1)


def _entropy(table: Tensor) -> Tensor:
    """Computes the entropy of each row's first choice in nats, shape ``[n]``."""
    log_probs = table.detach().log_softmax(-1)
    return -(log_probs.exp() * log_probs.masked_fill(~log_probs.isfinite(), 0)).sum(-1)


def policy_loss(table: Tensor, truths: Tensor, args: RewardArgs, reference: Tensor | None) -> PolicyLoss:
    """Computes the policy gradient of a table of scores.

    Args:
        table: The model's scores, ``-inf`` beyond a row's candidates, shape ``[n, k]``.
        truths: Position of the true candidate, shape ``[n]``.
        args: Reward, samples and weight of the KL divergence.
        reference: The base model's scores of the same candidates, shape ``[n, k]``; None without KL divergence.
    """
    orders = sample_orders(table, args.samples)
    positions = (orders == truths[:, None, None]).float().argmax(-1)
    rewards = REWARDS[args.metric](positions)
    drawn, each = step_log_probs(table, orders)
    counted = torch.arange(table.shape[1], device=table.device) <= positions[..., None]
    log_probs = drawn.masked_fill(~counted, 0).sum(-1)
    surrogate = -(leave_one_out(rewards) * log_probs).mean(1)
    values = surrogate - surrogate.detach() - rewards.mean(1)
    curves = {"reward": rewards.mean(), "entropy": _entropy(table).mean()}
    if reference is not None:
        _, base = step_log_probs(reference, orders)
        kl = _kl(each, base).masked_fill(~counted, 0).sum(-1).mean(1)
        values = values + args.kl * kl
        curves["kl"] = kl.mean().detach()
    return PolicyLoss(values, curves)
