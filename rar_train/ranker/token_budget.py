"""Token budgets: which examples fit the model, and how long each is. Nothing is ever truncated."""

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
from data_prep.prompting.prompts import NAMING, letters_prompt, list_answer, list_prompt
from data_prep.settings import Recipe
from rar_train.models.mllm import Mllm
from rar_train.ranker.collate import RankingBatch

log = logging.getLogger(__name__)


def longest_conversations(example: RankingExample, objectives: Collection[str]) -> list[tuple[str, str]]:
    """The prompts and answers that objectives make of an example, each the longest of its kind."""
    names = [candidate.name for candidate in example.candidates]
    made = []
    if {"letters", "listwise"} & set(objectives):
        made.append((letters_prompt(names), "A"))
    if "likelihood" in objectives:
        made.append((NAMING, max(names, key=lambda name: len(name.encode()))))
    if "list" in objectives:
        made.append((list_prompt(names), list_answer(names)))
    return made


def byte_lengths(examples: ShardedExamples, objectives: Collection[str]) -> np.ndarray:
    """Bytes of each example's longest conversation: no fewer than its tokens, and in proportion to them."""
    found = [longest_conversations(examples.example(number), objectives) for number in range(len(examples))]
    return np.array([max(len((prompt + answer).encode()) for prompt, answer in made) for made in found])


class ConversationTokens:
    """Counts the tokens of conversations with an image.

    Args:
        mllm: Its tokenizer and processor.
    """

    def __init__(self, mllm: Mllm):
        self.mllm = mllm
        self.of_image = lru_cache(maxsize=10_000)(self._of_image)
        self.frame = self._of_text(NAMING, "A")

    def _of_text(self, prompt: str, answer: str) -> int:
        ids = self.mllm.processor.tokenizer(self.mllm.render(prompt)).input_ids
        return len(ids) + len(self.mllm.answer_ids(prompt, answer))

    def _of_image(self, size: tuple[int, int]) -> int:
        """What an image of a width and height adds to its prompt."""
        blank = Image.new("RGB", size)
        return self.mllm.labelled([blank], [NAMING], ["A"])["input_ids"].shape[1] - self.frame

    def of(self, prompt: str, answer: str, size: tuple[int, int]) -> int:
        """Tokens of a conversation with an image of a width and height, as the model reads it."""
        return self._of_text(prompt, answer) + self.of_image(size)


def token_limit(mllm: Mllm, recipe: Recipe) -> int:
    """``ranker.max_tokens``, or what the model's positions allow."""
    return recipe.ranker.max_tokens or mllm.base.config.get_text_config().max_position_embeddings


def select_fitting(examples: ShardedExamples, lengths: np.ndarray, mllm: Mllm, recipe: Recipe) -> np.ndarray:
    """The numbers of the examples whose every conversation fits the token limit; the others are counted and named.

    Args:
        examples: The training examples.
        lengths: Their ``byte_lengths``.
        mllm: The ranker.
        recipe: Objectives and limit.

    Raises:
        UserError: None fits.
    """
    limit, tokens = token_limit(mllm, recipe), ConversationTokens(mllm)
    # An image's tokens depend on its size; the first example's stand for a first guess, twice over.
    room = limit - tokens.frame - 2 * tokens.of_image(examples.image_size(0))
    dropped = []
    for number in progress_bar("measuring prompts", np.flatnonzero(lengths > room).tolist()):
        made = longest_conversations(examples.example(number), recipe.ranker.objectives.weights)
        if max(tokens.of(*one, examples.image_size(number)) for one in made) > limit:
            dropped.append(number)
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
    """Refuses a batch of streamed examples that is longer than the limit; a stream cannot tell before it comes.

    Raises:
        UserError: A conversation is too long.
    """
    answers = max(map(len, batch.names), default=0) if batch.names else 0
    inputs = [(batch.letters, 1), (batch.naming, answers), (batch.conversations, 0), (batch.sorting, 0)]
    longest = max(one["input_ids"].shape[1] + more for one, more in inputs if one is not None)
    if longest > limit:
        raise UserError(
            f"an example among {batch.examples[0].key} and {len(batch.examples) - 1} more takes {longest} tokens, and "
            f"{limit} fit; lower mining.k or ranker.max_pixels, or set mining.streaming=false, which leaves it out"
        )
