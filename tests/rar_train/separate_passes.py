"""Scores of conversations by a forward pass of each, as the processor and the model alone give them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rar_train.models.forest import Conversation
from rar_train.models.mllm import Mllm
from rar_train.models.planting import ImageGroup, plant
from rar_train.models.scoring import score


def naive_scores(mllm: Mllm, image: ImageGroup, conversation: Conversation) -> Tensor:
    """Scores one conversation by a full forward pass of its own."""
    if conversation.answer is None:
        return mllm.model(**mllm.inputs([image], [conversation.prompt])).logits[0, -1, mllm.letter_ids(4)]
    batch = mllm.labelled([image], [conversation.prompt], [conversation.answer])
    labels = batch.pop("labels")[:, 1:]
    tokens = mllm.model(**batch).logits[:, :-1].log_softmax(-1)
    return tokens[labels != -100].gather(1, labels[labels != -100][:, None]).sum()[None]


def naive(mllm: Mllm, images: Sequence[ImageGroup], asked: Sequence[Sequence[Conversation]]) -> Tensor:
    """Scores all conversations naively: the letters', and then the answers', in one vector."""
    pairs = [(image, conversation) for image, row in zip(images, asked, strict=True) for conversation in row]
    pairs.sort(key=lambda pair: pair[1].answer is not None)
    return torch.cat([naive_scores(mllm, image, conversation) for image, conversation in pairs])


def in_one_pass(mllm: Mllm, images: Sequence[ImageGroup], asked: Sequence[Sequence[Conversation]]) -> Tensor:
    """Scores all conversations by their trees, in the order of ``naive``."""
    scores = score(mllm, plant(mllm, images, asked), mllm.letter_ids(4))
    return torch.cat([scores.letters.flatten(), scores.answers])
