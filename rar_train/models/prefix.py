"""Hidden states by a pass over what the conversations about an image share, and a pass for each of them after it.

For models whose layers pass a state along the row, so that they take no trees, where no gradients are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from rar_train.models.forest import Forest
from rar_train.models.mllm import Mllm


def read_states_after_prefix(mllm: Mllm, forest: Forest, passes: int) -> Tensor:
    """Computes the hidden states to read, ``[r, width]``.

    Args:
        mllm: The ranker.
        forest: The batch.
        passes: Number of passes after the shared one, at least the conversations of the row that has most; a row with
            fewer repeats its last.
    """
    cache = DynamicCache(config=mllm.base.config.get_text_config())
    heads = [list(range(head)) for head in forest.heads]
    real = _real(heads, forest, left=True)
    states = _run(mllm, forest, _columns(heads, left=True), real, cache, forest.pixels)
    read = dict.fromkeys(map(tuple, forest.reads.tolist()))
    width = real.shape[1]
    for row, head in enumerate(forest.heads):
        if (row, head - 1) in read:
            read[row, head - 1] = states[row, width - 1]
    tails: list[list[list[int]]] = [[] for _ in forest.heads]
    for path in forest.paths:
        tails[path.row].append(path.nodes or [forest.heads[path.row] - 1])
    for number in range(passes):
        nodes = [row[min(number, len(row) - 1)] for row in tails]
        mask = torch.cat([real, _real(nodes, forest)], 1)
        # Copied in depth: the layers change their states in place, and a shallow copy shares them.
        states = _run(mllm, forest, _columns(nodes), mask, deepcopy(cache), {})
        for row, path in enumerate(nodes):
            for column, node in enumerate(path):
                if read.get((row, node), states) is None:
                    read[row, node] = states[row, column]
    return torch.stack(list(read.values()))


def _columns(nodes: Sequence[Sequence[int]], left: bool = False) -> Tensor:
    """Stacks each row's nodes, padded with the node 0."""
    side = "left" if left else "right"
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in nodes], batch_first=True, padding_side=side)


def _real(nodes: Sequence[Sequence[int]], forest: Forest, left: bool = False) -> Tensor:
    """Returns the attention mask of padded nodes: 1 for nodes, 0 for padding."""
    return (_columns([[node + 1 for node in row] for row in nodes], left) > 0).long().to(forest.ids.device)


def _run(mllm: Mllm, forest: Forest, columns: Tensor, mask: Tensor, cache: DynamicCache, pixels: dict) -> Tensor:
    """Runs a part of each row after what the cache holds; returns hidden states ``[n, longest, width]``."""
    columns = columns.to(forest.ids.device)
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    padding = mask[:, -columns.shape[1] :] == 0
    return mllm.base.base_model(
        input_ids=forest.ids[rows, columns].masked_fill(padding, mllm.processor.tokenizer.pad_token_id),
        attention_mask=mask,
        position_ids=forest.positions[..., rows, columns],
        cache=cache,
        use_cache=True,
        **{name: value[rows, columns].masked_fill(padding, 0) for name, value in forest.types.items()},
        **pixels,
    ).last_hidden_state
