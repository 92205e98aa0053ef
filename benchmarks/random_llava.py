"""A LLaVA with random weights in a size that fits the machine, with its processor and ranking examples.

Used by benchmarks of training: a random model takes a step in the same time as a trained one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.records import Candidate, RankingExample
from rar_train.nano.architecture import CHAT_TEMPLATE
from rar_train.nano.tokenizer import IMAGE, nano_tokenizer

PATCH, CANDIDATES = 14, 5


@dataclass(frozen=True)
class Size:
    """Model sizes, batch size and number of steps.

    Attributes:
        text: Shape of the language model.
        tower: Shape of the vision tower.
        pixels: Width and height of an image as the tower gets it.
        batch: Examples per step.
        warm: Steps before the clock starts.
        timed: Steps that are timed.
        gradient_checkpointing: Whether activations are recomputed in the backward pass.
        workers: Processes that load the data.
    """

    text: dict
    tower: dict
    pixels: int
    batch: int
    warm: int
    timed: int
    gradient_checkpointing: bool
    workers: int = 0


def _shape(width: int, inner: int, layers: int, heads: int) -> dict:
    return {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
    }  # fmt: skip


def choose_size(small: bool, compiling: bool = False) -> Size:
    """Chooses a size that fits the machine; compiled layers, recompiled for some lengths, need more warm-up steps.

    Args:
        small: A tiny model, to try a benchmark.
        compiling: Whether layers are compiled.
    """
    if small:
        size = Size(_shape(64, 128, 2, 2), _shape(64, 128, 2, 2), 56, 2, 1, 2, False)
    elif torch.cuda.is_available():
        size = Size(_shape(4096, 11008, 32, 32), _shape(1024, 4096, 24, 16), 336, 8, 3, 10, True, 4)
    else:
        # The first step maps the memory that later ones use again.
        size = Size(_shape(640, 1728, 10, 10), _shape(512, 2048, 8, 8), 224, 4, 2, 6, False)
    return replace(size, warm=8, timed=12) if compiling else size


def make_model(size: Size) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Makes the random model, on the GPU in bfloat16 where there is one, and its processor."""
    tokenizer = nano_tokenizer(append_eos=False)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
           "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**size.tower, image_size=size.pixels, patch_size=PATCH),
        text_config=LlamaConfig(**size.text, **ids, vocab_size=32_000, max_position_embeddings=4096),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(size.pixels // PATCH) ** 2,
    )
    square = {"height": size.pixels, "width": size.pixels}
    processor = LlavaProcessor(
        CLIPImageProcessor(size=square, crop_size=square), tokenizer, patch_size=PATCH, chat_template=CHAT_TEMPLATE,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16 if torch.cuda.is_available() else torch.float32)
        model = LlavaForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
    return model, processor


def make_examples(count: int) -> list[tuple[RankingExample, Image.Image]]:
    """Makes ranking examples of armory's shields with five candidates each."""
    classes = draw_classes("train", 40, 4, 0)
    examples = []
    for index in range(count):
        labels = np.random.default_rng(index).permutation(len(classes))[:CANDIDATES].tolist()
        candidates = tuple(Candidate(label, classes[label].name, -rank) for rank, label in enumerate(labels))
        truth = labels[index % CANDIDATES]
        image = render(classes[truth], 96, np.random.default_rng([1, index]))
        examples.append((RankingExample(f"example-{index}", truth, candidates), image))
    return examples
