"""Gradient checkpointing by memory: whether a ranker's training needs it on this device."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

from PIL import Image

from data_prep.core.records import RankingExample
from data_prep.core.rng import evenly_spaced
from data_prep.settings import Recipe
from rar_train.engine.memory_estimate import ModelSizes, device_memory, estimate
from rar_train.models.forest import Conversation
from rar_train.models.lora import parameter_table
from rar_train.models.mllm import Mllm
from rar_train.models.planting import plant
from rar_train.models.scoring import has_masked_attention
from rar_train.ranker.collate import CONVERSATIONS, list_conversations
from rar_train.ranker.datamodule import RankingData

log = logging.getLogger(__name__)

_USABLE = 0.8  # of a device's memory; the rest is for what the estimate leaves out
_MEASURED_IMAGES = 100


def _conversations(mllm: Mllm, example: RankingExample, objectives: Collection[str]) -> list[Conversation]:
    modes = {CONVERSATIONS[name] for name in objectives}
    return list_conversations(example, list(range(len(example.candidates))), modes, mllm.reranker is not None)


def _text_bytes(mllm: Mllm, example: RankingExample, objectives: Collection[str]) -> int:
    """Counts the bytes of an example's conversations, with which its tree grows."""
    conversations = _conversations(mllm, example, objectives)
    return sum(len(f"{turn.prompt}{turn.answer or ''}".encode()) for turn in conversations)


def example_tokens(mllm: Mllm, example: RankingExample, objectives: Collection[str], size: tuple[int, int]) -> int:
    """Counts the tokens that a training step processes for an example.

    Args:
        mllm: Its processor tokenises.
        example: The example.
        objectives: The objectives in use.
        size: Width and height of the example's image.
    """
    forest = plant(mllm, [Image.new("RGB", size)], [_conversations(mllm, example, objectives)])
    # Not by takes_trees, which would run the model before it is on its device.
    if has_masked_attention(mllm):
        return forest.tokens
    return sum(forest.heads[path.row] + len(path.nodes) for path in forest.paths)


def needs_checkpointing(recipe: Recipe, sizes: ModelSizes, tokens: int, available: float | None) -> bool:
    """Tells whether a step is estimated not to fit in a device's memory without gradient checkpointing.

    Args:
        recipe: Dtypes, batch size and strategy.
        sizes: The model.
        tokens: Tokens of a long example.
        available: Bytes of the device's memory; None where it is unknown, which counts as enough.
    """
    return available is not None and estimate(recipe, sizes, tokens, checkpointing=False).total > _USABLE * available


def _longest_example(data: RankingData) -> tuple[RankingExample, tuple[int, int]]:
    """Returns the example with the most text, and the size of the largest of evenly spaced examples' images."""
    if data.lengths is None:  # a stream has no index of its examples; those of validation are mined alike
        examples, indices = data.val_set, range(len(data.val_set))
    else:
        examples, indices = data.train_set, data.selected
    longest = max(indices, key=lambda index: _text_bytes(data.mllm, examples.example(index), data.objectives))
    sizes = (examples.image_size(indices[row]) for row in evenly_spaced(len(indices), _MEASURED_IMAGES))
    return examples.example(longest), max(sizes, key=math.prod)


def decide_checkpointing(recipe: Recipe, mllm: Mllm, data: RankingData) -> bool:
    """Decides for ``trainer.gradient_checkpointing=auto`` whether this device's memory needs it, and logs why.

    Args:
        recipe: The run's recipe.
        mllm: The model with its adapter.
        data: The run's data, set up.
    """
    example, size = _longest_example(data)
    tokens, available = example_tokens(mllm, example, data.objectives, size), device_memory(recipe.trainer)
    sizes = ModelSizes.of(mllm.base.config, *parameter_table(mllm)[-1][1:])
    on = needs_checkpointing(recipe, sizes, tokens, available)
    without = estimate(recipe, sizes, tokens, checkpointing=False)
    memory = "unknown" if available is None else f"{available / 2**30:.1f} GiB"
    if on:
        log.info(
            "training: gradient checkpointing on: without it %s, with it %.1f GiB, and %d %% of %s may be used",
            without, estimate(recipe, sizes, tokens, checkpointing=True).total / 2**30, 100 * _USABLE, memory,
        )  # fmt: skip
    else:
        log.info("training: gradient checkpointing off: without it %s; the device's memory is %s", without, memory)
    return on
