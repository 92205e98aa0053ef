"""Greedy decoding of the MLLM's replies; a base's ``generation_config.json`` is ignored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import Tensor
from transformers import BatchFeature, LogitsProcessor, LogitsProcessorList

from rar_train.models.mllm import Mllm

DIGITS = 3
"""Decimals of a score. In float32 the same image scored in another batch differs by less than 1e-4, so rounded scores
agree, and near ties become ties, which the retriever's order breaks."""


class RoundedLogits(LogitsProcessor):
    """Rounds logits like scores, so that greedy decoding does not depend on the batch."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Rounds logits of shape ``[n, vocabulary]``."""
        return scores.float().round(decimals=DIGITS)


def generate(
    mllm: Mllm,
    inputs: BatchFeature,
    max_new_tokens: int,
    allowed_tokens: Callable[[int, Tensor], list[int]] | None = None,
    together: bool = False,
) -> Tensor:
    """Generates replies greedily.

    Args:
        mllm: The ranker.
        inputs: Prompts, padded on the left, on the model's device.
        max_new_tokens: Maximum length of a reply in tokens.
        allowed_tokens: Maps a row and its ids so far, prompt included, to the tokens that may follow; None for any.
        together: Whether all processes generate and none may stop before the others, as sharded parameters require.

    Returns:
        Tensor: Ids of shape ``[n, longest]``, without the prompts.
    """
    config = copy.copy(mllm.base.generation_config)  # set by ``load_mllm``
    config.max_new_tokens = max_new_tokens
    sequences = mllm.model.generate(
        **inputs,
        generation_config=config,
        logits_processor=LogitsProcessorList([RoundedLogits()]),
        prefix_allowed_tokens_fn=allowed_tokens,
        synced_gpus=together,
    )
    return sequences[:, inputs["input_ids"].shape[1] :]


def decode_texts(mllm: Mllm, replies: Sequence[Tensor]) -> list[str]:
    """Decodes replies to text, with escaped control tokens in names restored."""
    texts = mllm.processor.tokenizer.batch_decode(replies, skip_special_tokens=True)
    return [mllm.plain.unescape(text.strip()) for text in texts]
