"""The language model's head in float32, applied only where something is read.

Half-precision logits between 8 and 16 are multiples of 1/16, so that the best two of a few candidates often tie. Here
hidden state and head are cast before the product, whatever the base model's data type. ZeRO-3 gathers a partitioned
weight where it is read in a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rar_train.models.mllm import Mllm

_CHUNK = 2**26  # elements of the largest float32 buffer: 256 MB


def letter_logits(mllm: Mllm, states: Tensor, letters: Sequence[int]) -> Tensor:
    """Computes the logits of letters in float32, from the head's rows of these tokens alone.

    Args:
        mllm: The ranker.
        states: Hidden states, shape ``[r, width]``.
        letters: Token ids.

    Returns:
        Tensor: Shape ``[r, len(letters)]``.
    """
    states = _scale(mllm, states)
    head, ids = mllm.base.get_output_embeddings(), torch.tensor(letters, dtype=torch.long, device=states.device)
    if not _is_plain(head):
        return _cap(mllm, _head_logits(head, states))[:, ids]
    with torch.autocast(states.device.type, enabled=False):
        bias = None if head.bias is None else _wide(head.bias[ids])
        return _cap(mllm, nn.functional.linear(_wide(states), _wide(head.weight[ids]), bias))


def token_log_probs(mllm: Mllm, states: Tensor, reads: Tensor, targets: Tensor) -> Tensor:
    """Computes log-probabilities of tokens in float32; memory does not grow with states times vocabulary.

    Args:
        mllm: The ranker.
        states: Hidden states, shape ``[r, width]``.
        reads: The state that predicts each token, shape ``[m]``.
        targets: The tokens, shape ``[m]``.

    Returns:
        Tensor: Shape ``[m]``.
    """
    states, head = _scale(mllm, states), mllm.base.get_output_embeddings()
    if not _is_plain(head):
        return _cap(mllm, _head_logits(head, states)).log_softmax(-1)[reads, targets]
    with torch.autocast(states.device.type, enabled=False):
        return _TokenLogProbs.apply(_wide(states), head.weight, head.bias, reads, targets, _soft_cap(mllm))


def _wide(values: Tensor) -> Tensor:
    """Casts half precision to float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _is_plain(head: nn.Module) -> bool:
    """Whether a head is a frozen linear layer, without an adapter."""
    return type(head) is nn.Linear and not head.weight.requires_grad


def _head_logits(head: nn.Module, states: Tensor) -> Tensor:
    """Applies a trained head, or one with an adapter, in float32; under ZeRO-3, whose hooks need a call, as it is."""
    if any(hasattr(value, "ds_id") for value in head.parameters()):
        return _wide(head(states))
    weights = {name: _wide(value) for name, value in head.named_parameters()}
    with torch.autocast(states.device.type, enabled=False):
        return torch.func.functional_call(head, weights, (_wide(states),))


def _scale(mllm: Mllm, states: Tensor) -> Tensor:
    """Divides hidden states where the family divides the logits; such a head has no bias."""
    return states / mllm.base.config.get_text_config().logits_scaling if mllm.family.scaled else states


def _soft_cap(mllm: Mllm) -> float | None:
    return mllm.base.config.get_text_config().to_dict().get("final_logit_softcapping") if mllm.family.softcap else None


def _cap(mllm: Mllm, logits: Tensor) -> Tensor:
    cap = _soft_cap(mllm)
    return logits if cap is None else cap * torch.tanh(logits / cap)


class _TokenLogProbs(torch.autograd.Function):
    """Log-probabilities of tokens under a frozen head, in chunks of states and of the vocabulary.

    A token's log-probability has the gradient ``W[token] - sum_v p(v) W[v]`` with respect to its hidden state. It is
    computed in the forward pass, where the logits are at hand, so that the backward pass needs neither the logits nor
    the head.
    """

    @staticmethod
    def forward(ctx, states, weight, bias, reads, targets, cap):
        logits_at, normalisers = states.new_zeros(len(targets)), states.new_zeros(len(states))
        expected = torch.zeros_like(states) if ctx.needs_input_grad[0] else None
        slopes = torch.ones_like(logits_at)
        rows, words = max(1, _CHUNK // len(weight)), max(1, _CHUNK // weight.shape[1])
        for first in range(0, len(states), rows):
            chunk = slice(first, first + rows)
            logits = torch.cat([states[chunk] @ _wide(part).T for part in weight.split(words)], 1)
            logits = logits if bias is None else logits + _wide(bias)
            if cap is not None:
                logits = cap * torch.tanh(logits / cap)
            normalisers[chunk] = logits.logsumexp(-1)
            inside = (reads >= first) & (reads < first + rows)
            here = logits[(reads - first).clamp(0, len(logits) - 1), targets]
            logits_at = torch.where(inside, here, logits_at)
            if expected is not None:
                shares = (logits - normalisers[chunk, None]).exp()
                shares = shares if cap is None else shares * (1 - (logits / cap) ** 2)
                parts = zip(shares.split(words, 1), weight.split(words), strict=True)
                expected[chunk] = sum(share @ _wide(part) for share, part in parts)
        if expected is not None:
            slopes = slopes if cap is None else 1 - (logits_at / cap) ** 2
            ctx.save_for_backward(expected, _wide(weight[targets]) * slopes[:, None], reads)
        return logits_at - normalisers[reads]

    @staticmethod
    def backward(ctx, gradient):
        expected, own, reads = ctx.saved_tensors
        by_state = gradient.new_zeros(len(expected)).index_add(0, reads, gradient)
        states = (-by_state[:, None] * expected).index_add(0, reads, gradient[:, None] * own)
        return states, None, None, None, None, None
