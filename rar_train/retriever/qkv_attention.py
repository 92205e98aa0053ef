"""Attention layers with query, key and value matrices of their own, so that each can have an adapter.

torch's ``nn.MultiheadAttention`` keeps the three in one matrix, and so do timm's towers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.core.errors import UserError

_JOINED = {"qkv": ("q", "k", "v"), "kv": ("k", "v")}
"""Names of linear layers that hold several of the matrices, and the names of their parts."""
_SEPARATE = {"q", "k", "v", "q_proj", "k_proj", "v_proj", "query", "key", "value", "q_lin", "k_lin", "v_lin"}
"""Names of linear layers that are one of the matrices, in timm's and Hugging Face's towers."""


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Makes a linear layer of a copy of given weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


class QkvAttention(nn.Module):
    """The same function as an ``nn.MultiheadAttention``, with ``q``, ``k`` and ``v`` as linear layers.

    Args:
        attention: The layer whose weights are copied; without extra keys (``bias_k``, ``add_zero_attn``).
    """

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.heads, self.batch_first, self.dropout = attention.num_heads, attention.batch_first, attention.dropout
        if attention.in_proj_weight is not None:
            weights: Sequence[Tensor] = attention.in_proj_weight.chunk(3)
        else:
            weights = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
        joined_bias = attention.in_proj_bias
        biases: Sequence[Tensor | None] = (None, None, None) if joined_bias is None else joined_bias.chunk(3)
        self.q, self.k, self.v = (_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
        self.out_proj = attention.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Attends as ``nn.MultiheadAttention`` does, without returning weights.

        Args:
            query: Shape ``[n, tokens, d]``, or ``[tokens, n, d]`` for a layer that is not ``batch_first``.
            key: The same shape, with tokens of its own.
            value: As many tokens as ``key``.
            need_weights: Must be false.
            attn_mask: Added to the logits, or true where a key is hidden; ``[queries, keys]`` or
                ``[n * heads, queries, keys]``.
        """
        assert not need_weights
        inputs = [query, key, value] if self.batch_first else [x.transpose(0, 1) for x in (query, key, value)]
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in zip((self.q, self.k, self.v), inputs, strict=True)
        )
        if attn_mask is not None:
            attn_mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask.to(q.dtype)
            attn_mask = attn_mask.unflatten(0, (-1, self.heads)) if attn_mask.dim() == 3 else attn_mask
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask, self.dropout if self.training else 0.0)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return output if self.batch_first else output.transpose(0, 1), None

    def join(self) -> nn.MultiheadAttention:
        """Returns an ``nn.MultiheadAttention`` with the present weights."""
        weights, biases = ([getattr(layer, kind) for layer in (self.q, self.k, self.v)] for kind in ("weight", "bias"))
        joined = nn.MultiheadAttention(
            self.q.out_features,
            self.heads,
            self.dropout,
            biases[0] is not None,
            kdim=self.k.in_features,
            vdim=self.v.in_features,
            batch_first=self.batch_first,
            device="meta",
        ).to_empty(device=weights[0].device)
        joined = joined.to(weights[0].dtype)
        with torch.no_grad():
            if joined.in_proj_weight is not None:
                joined.in_proj_weight.copy_(torch.cat(weights))
            else:
                for own, weight in zip(
                    (joined.q_proj_weight, joined.k_proj_weight, joined.v_proj_weight), weights, strict=True
                ):
                    own.copy_(weight)
            if biases[0] is not None:
                joined.in_proj_bias.copy_(torch.cat(biases))
        joined.out_proj = self.out_proj
        return joined


class SplitLinear(nn.Module):
    """The same function as a linear layer, with its output computed by several layers side by side.

    Args:
        layer: The layer whose weights are copied.
        parts: Names of the layers that share its output equally.
    """

    def __init__(self, layer: nn.Linear, parts: Sequence[str]):
        super().__init__()
        self.parts = tuple(parts)
        weights = layer.weight.chunk(len(parts))
        biases = [None] * len(parts) if layer.bias is None else layer.bias.chunk(len(parts))
        for name, weight, bias in zip(parts, weights, biases, strict=True):
            self.add_module(name, _linear(weight, bias))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs of the parts, one after the other in the last dimension."""
        return torch.cat([self.get_submodule(part)(x) for part in self.parts], -1)

    def join(self) -> nn.Linear:
        """Returns one linear layer with the present weights."""
        layers = [self.get_submodule(part) for part in self.parts]
        biases = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
        return _linear(torch.cat([layer.weight for layer in layers]), biases)


def _replace(model: nn.Module, make: Callable[[str, nn.Module], nn.Module | None]) -> Iterator[tuple[str, nn.Module]]:
    """Puts another module in the place of each for which ``make`` returns one; yields their names and the modules."""
    for name, module in list(model.named_modules()):
        made = make(name, module)
        if made is not None:
            outer, _, last = name.rpartition(".")
            setattr(model.get_submodule(outer), last, made)
            yield name, made


def split_attentions(model: nn.Module, is_chosen: Callable[[str], bool]) -> list[str]:
    """Gives the attention layers of a model query, key and value matrices of their own.

    Args:
        model: An open_clip model; it is changed, and computes the same.
        is_chosen: Tells by a module's name whether its tower is tuned.

    Returns:
        list[str]: Names of the linear layers that are a query, key or value matrix.

    Raises:
        UserError: There are none.
    """

    def make(name: str, module: nn.Module) -> nn.Module | None:
        if not is_chosen(name):
            return None
        if isinstance(module, nn.MultiheadAttention) and module.bias_k is None and not module.add_zero_attn:
            return QkvAttention(module)
        parts = _JOINED.get(name.rpartition(".")[2])
        return SplitLinear(module, parts) if parts and isinstance(module, nn.Linear) else None

    for _ in _replace(model, make):
        pass
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and is_chosen(name) and name.rpartition(".")[2] in _SEPARATE
    ]
    if not found:
        raise UserError(
            "retriever.tuning.lora_layers=qkv: the model has no attention layers in these towers whose query, key and "
            "value matrices are known; set lora_layers=linear"
        )
    return found


def join_attentions(model: nn.Module) -> nn.Module:
    """Undoes ``split_attentions``, with the present weights."""

    def make(_: str, module: nn.Module) -> nn.Module | None:
        return module.join() if isinstance(module, QkvAttention | SplitLinear) else None

    for _ in _replace(model, make):
        pass
    return model
