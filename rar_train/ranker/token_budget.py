"""Token budgets: measures examples and selects those that fit the model. Nothing is ever truncated."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import lru_cache

import numpy as np
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.progress import progress_bar
from data_prep.core.records import RankingExample
from data_prep.mining.shards import ShardedExamples
from data_prep.prompting.prompts import NAMING, letters_prompt, list_answer, list_prompt, yes_no_prompt
from data_prep.settings import Recipe
from rar_train.models.mllm import Mllm
from rar_train.ranker.collate import CONVERSATIONS, RankingBatch

log = logging.getLogger(__name__)


def longest_conversations(example: RankingExample, objectives: Collection[str]) -> list[tuple[str, str]]:
    """Returns an example's longest prompt and answer for each kind of prompt that the objectives use."""
    names = [candidate.name for candidate in example.candidates]
    conversations = []
    modes = {CONVERSATIONS[name] for name in objectives}
    if "letters" in modes:
        conversations.append((letters_prompt(names, example.descriptions), "A"))
    if "likelihood" in modes:
        conversations.append((NAMING, max(names, key=lambda name: len(name.encode()))))
    if "yes_no" in modes:
        described = example.descriptions or [""] * len(names)
        questions = [yes_no_prompt(*candidate) for candidate in zip(names, described, strict=True)]
        conversations.append((max(questions, key=lambda question: len(question.encode())), "A"))
    if "list" in modes:
        conversations.append((list_prompt(names, descriptions=example.descriptions), list_answer(names)))
    return conversations


def byte_lengths(examples: ShardedExamples, objectives: Collection[str]) -> np.ndarray:
    """Returns the bytes of each example's longest conversation: an upper bound on its tokens, roughly proportional."""
    rows = [longest_conversations(examples.example(index), objectives) for index in range(len(examples))]
    return np.array([max(len((prompt + answer).encode()) for prompt, answer in row) for row in rows])


class ConversationTokens:
    """Counts the tokens of conversations with an image.

    Args:
        mllm: The model; its tokenizer and processor are used.
    """

    def __init__(self, mllm: Mllm):
        self.mllm = mllm
        self.of_image = lru_cache(maxsize=10_000)(self._count_image)
        self.frame = self._count_text(NAMING, "A")
        self.excess = self._count_excess()

    def _count_text(self, prompt: str, answer: str) -> int:
        ids = self.mllm.processor.tokenizer(self.mllm.render(prompt)).input_ids
        return len(ids) + len(self.mllm.answer_ids(prompt, answer))

    def _count_excess(self) -> int:
        """Counts the tokens that a reranker's template has more than the ordinary one."""
        if self.mllm.reranker is None:
            return 0
        return max(0, len(self.mllm.processor.tokenizer(self.mllm.render_pair(NAMING)).input_ids) - self.frame)

    def _count_image(self, size: tuple[int, int]) -> int:
        """Counts the tokens that an image of a width and height adds to its prompt."""
        blank = Image.new("RGB", size)
        return self.mllm.labelled([blank], [NAMING], ["A"])["input_ids"].shape[1] - self.frame

    def of(self, prompt: str, answer: str, size: tuple[int, int]) -> int:
        """Counts the tokens of a conversation with an image of a width and height, at most, as the model reads it."""
        return self._count_text(prompt, answer) + self.excess + self.of_image(size)


def token_limit(mllm: Mllm, recipe: Recipe) -> int:
    """Returns ``ranker.max_tokens``, or the model's maximum number of positions where it is not set."""
    return recipe.ranker.max_tokens or mllm.base.config.get_text_config().max_position_embeddings


def select_fitting(examples: ShardedExamples, lengths: np.ndarray, mllm: Mllm, recipe: Recipe) -> np.ndarray:
    """Returns the indices of the examples whose conversations all fit the token limit; logs how many do not.

    Args:
        examples: The training examples.
        lengths: ``byte_lengths`` of the examples.
        mllm: The ranker.
        recipe: Gives objectives and limit.

    Raises:
        UserError: None fits.
    """
    limit, tokens = token_limit(mllm, recipe), ConversationTokens(mllm)
    # Most examples fit by their byte length and need no tokenization. An image's tokens depend on its size, so this
    # filter allows for twice those of the first image.
    room = limit - tokens.frame - tokens.excess - 2 * tokens.of_image(examples.image_size(0))
    dropped = []
    for index in progress_bar("measuring prompts", np.flatnonzero(lengths > room).tolist()):
        conversations = longest_conversations(examples.example(index), recipe.ranker.objectives.weights)
        size = examples.image_size(index)
        if max(tokens.of(prompt, answer, size) for prompt, answer in conversations) > limit:
            dropped.append(index)
    if dropped:
        log.warning(
            "training: %d of %d examples are longer than %d tokens and left out, such as %s",
            len(dropped), len(examples), limit, examples.example(dropped[0]).key,
        )  # fmt: skip
    if len(dropped) == len(examples):
        raise UserError(
            f"no ranking example fits {limit} tokens; raise ranker.max_tokens, or lower mining.k or ranker.max_pixels"
        )
    return np.setdiff1d(np.arange(len(examples)), dropped)


def check_fits(batch: RankingBatch, limit: int) -> None:
    """Checks that a streamed batch fits the token limit; streamed examples are not measured in advance.

    Raises:
        UserError: A conversation is too long.
    """
    longest = batch.forest.longest
    if longest > limit:
        raise UserError(
            f"an example among {batch.examples[0].key} and {len(batch.examples) - 1} more takes {longest} tokens, and "
            f"{limit} fit; lower mining.k or ranker.max_pixels, or set mining.streaming=false, which leaves it out"
        )
