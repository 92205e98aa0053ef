"""Checks of a model outside the table of families: what holds for every family in it must hold for this one too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BatchFeature

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt

_PROMPTS = (NAMING, letters_prompt(["one", "another"]))


class Subject(Protocol):
    """What the checks use of an ``Mllm``."""

    model: nn.Module

    def answer_ids(self, prompt: str, answer: str) -> tuple[int, ...]:
        """Returns an answer's tokens."""

    def letter_ids(self, count: int) -> list[int]:
        """Returns the letters' tokens."""

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str], side: str = "left") -> BatchFeature:
        """Builds inputs."""

    def labelled(self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str]) -> BatchFeature:
        """Builds inputs with labels."""


def find_failure(mllm: Subject, tolerance: float) -> str | None:
    """Returns the first check that fails, with what it found; None where all pass.

    Args:
        mllm: A model that was just loaded.
        tolerance: Relative difference of logits that rounding makes.
    """
    checks: dict[str, Callable[[], str | None]] = {
        "a prompt is a prefix of its conversation": lambda: _run(lambda: mllm.answer_ids(NAMING, "A")),
        "letters are single tokens": lambda: _run(lambda: mllm.letter_ids(len(LETTERS))),
        "an answer has the same tokens after an image": lambda: _run(
            lambda: mllm.labelled([_picture()], [NAMING], ["A"])
        ),
        "padding changes nothing": lambda: _compare_padding(mllm, tolerance),
        "the answer depends on the image": lambda: _compare_images(mllm),
    }
    for name, check in checks.items():
        try:
            found = check()
        except Exception as error:  # models and processors raise errors of many kinds
            found = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if found is not None:
            return f"the check that {name} failed ({found})"
    return None


def _run(action: Callable[[], object]) -> str | None:
    try:
        action()
    except UserError as error:
        return str(error)
    return None


def _picture() -> Image.Image:
    return Image.radial_gradient("L").resize((64, 64)).convert("RGB")


def _last_logits(mllm: Subject, inputs: BatchFeature) -> Tensor:
    """Computes the logits after each prompt, shape ``[n, vocabulary]``; inputs are padded on the left."""
    weight = next(mllm.model.parameters())
    moved = {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    with torch.no_grad():
        return mllm.model(**moved).logits[:, -1].float()


def _compare_padding(mllm: Subject, tolerance: float) -> str | None:
    images = [_picture(), _picture().rotate(90).resize((96, 64))]
    together = _last_logits(mllm, mllm.inputs(images, _PROMPTS))
    pairs = zip(images, _PROMPTS, strict=True)
    alone = torch.cat([_last_logits(mllm, mllm.inputs([image], [prompt])) for image, prompt in pairs])
    difference = ((together - alone).norm() / alone.norm()).item()
    return None if difference <= tolerance else f"logits differ by {difference:.2g} in a batch with a longer prompt"


def _compare_images(mllm: Subject) -> str | None:
    one, other = (
        _last_logits(mllm, mllm.inputs([image], [NAMING])) for image in (_picture(), Image.new("RGB", (64, 64)))
    )
    return "two images give the same logits" if torch.equal(one, other) else None
