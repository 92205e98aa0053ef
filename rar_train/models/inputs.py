"""Model inputs of the letters and naming prompts, and their transfer to the model's device."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from data_prep.prompting.prompts import NAMING, letters_prompt
from rar_train.models.mllm import Mllm


def letter_inputs(mllm: Mllm, images: Sequence[Image.Image], names: Sequence[Sequence[str]]):
    """Returns the inputs of the letters prompts, and the letters' token ids."""
    prompts = [letters_prompt(row) for row in names]
    return mllm.inputs(images, prompts), mllm.letter_ids(max(map(len, names)))


def naming_inputs(mllm: Mllm, images: Sequence[Image.Image], names: Sequence[Sequence[str]]):
    """Returns the inputs of the naming prompts, the candidates' names as answers, and each answer's row."""
    answers = [mllm.answer_ids(NAMING, name) for row in names for name in row]
    owners = [index for index, row in enumerate(names) for _ in row]
    return mllm.inputs(images, [NAMING] * len(images)), answers, owners


def to_device(inputs: BatchFeature, like: Tensor) -> BatchFeature:
    """Moves inputs to a parameter's device, and floating-point inputs to its dtype."""
    moved = {
        key: value.to(like.device, like.dtype if value.is_floating_point() else None) for key, value in inputs.items()
    }
    return BatchFeature(moved)
