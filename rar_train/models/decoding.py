"""What the MLLM writes: greedy, and defined here alone; a base's ``generation_config.json`` has no say in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import Tensor
from transformers import BatchFeature, LogitsProcessor, LogitsProcessorList

from rar_train.models.mllm import Mllm

DIGITS = 3
"""Decimals of a score. In float32 the same image scored in another batch differs by less than 1e-4, so that
rounded scores agree and near ties are ties, which the retriever's order decides."""


class RoundedLogits(LogitsProcessor):
    """Rounds logits as scores are rounded, so that greedy decoding does not depend on the batch."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Rounds scores of shape ``[n, vocabulary]``."""
        return scores.float().round(decimals=DIGITS)


def generate(
    mllm: Mllm,
    inputs: BatchFeature,
    most: int,
    allowed: Callable[[int, Tensor], list[int]] | None = None,
    together: bool = False,
) -> Tensor:
    """Greedy replies.

    Args:
        mllm: The ranker.
        inputs: Prompts, padded on the left, on the model's device.
        most: Tokens that a reply may take.
        allowed: From a row and its ids so far, prompt included, to the tokens that may follow; None for any.
        together: Whether all processes write, and none may stop before the others: split parameters need all of them.

    Returns:
        Tensor: Ids of shape ``[n, longest]``, without the prompts.
    """
    config = copy.copy(mllm.base.generation_config)  # which ``load_mllm`` has set
    config.max_new_tokens = most
    made = mllm.model.generate(
        **inputs,
        generation_config=config,
        logits_processor=LogitsProcessorList([RoundedLogits()]),
        prefix_allowed_tokens_fn=allowed,
        synced_gpus=together,
    )
    return made[:, inputs["input_ids"].shape[1] :]


def decode_texts(mllm: Mllm, replies: Sequence[Tensor]) -> list[str]:
    """Replies as text, with names as they were given."""
    found = mllm.processor.tokenizer.batch_decode(replies, skip_special_tokens=True)
    return [mllm.plain.restored(text.strip()) for text in found]
