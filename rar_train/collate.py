"""From ranking examples to what the objectives compute on."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from data_prep.lots import shuffled
from data_prep.prompts import NAMING, letters_prompt, list_answer, list_prompt
from data_prep.records import RankingExample
from data_prep.targets import target_names
from rar_train.backend import Mllm


class RankingBatch:
    """A batch for each objective that is in use; the others are None.

    A plain class, which Lightning hands on untouched: each objective moves its own inputs.

    Attributes:
        examples: With their candidates in the order shown.
        truths: The true candidate's position in each.
        counts: Candidates of each.
        letters: Inputs of the letters prompts, padded on the left.
        letter_ids: Token ids of the letters.
        naming: Inputs of the naming prompts, padded on the left.
        names: Token ids of every candidate's name as an answer, example after example.
        owners: The example that each of ``names`` belongs to.
        sorting: Inputs and labels of the list prompts, padded on the right.
    """

    def __init__(self, examples: list[RankingExample]):
        self.examples = examples
        self.truths = [example.truth for example in examples]
        self.counts = [len(example.candidates) for example in examples]
        self.letters: BatchFeature | None = None
        self.letter_ids: list[int] | None = None
        self.naming: BatchFeature | None = None
        self.names: list[tuple[int, ...]] | None = None
        self.owners: list[int] | None = None
        self.sorting: BatchFeature | None = None


def letter_inputs(mllm: Mllm, images: Sequence[Image.Image], names: Sequence[Sequence[str]]):
    """Inputs of the letters prompts, and the letters' token ids."""
    prompts = [letters_prompt(row) for row in names]
    most = max(range(len(names)), key=lambda i: len(names[i]))
    return mllm.inputs(images, prompts), mllm.letter_ids(prompts[most], len(names[most]))


def naming_inputs(mllm: Mllm, images: Sequence[Image.Image], names: Sequence[Sequence[str]]):
    """Inputs of the naming prompts, the candidates' names as answers, and whose they are."""
    answers = [mllm.answer_ids(NAMING, name) for row in names for name in row]
    owners = [number for number, row in enumerate(names) for _ in row]
    return mllm.inputs(images, [NAMING] * len(images)), answers, owners


def collate(
    mllm: Mllm,
    pairs: Sequence[tuple[RankingExample, Image.Image]],
    objectives: Sequence[str],
    seed: int,
    epochs: Sequence[int],
    target: str = "truth_first",
) -> RankingBatch:
    """Makes a batch.

    Args:
        mllm: Tokenises and prepares images.
        pairs: Examples in retriever order with their images; the truth is among the candidates.
        objectives: Which of ``letters``, ``likelihood`` and ``list`` to prepare.
        seed: Of the candidates' order.
        epochs: The epoch that each pair belongs to; it decides the order shown.
        target: ``mining.target``, the order that the list objective asks for.
    """
    images = [image for _, image in pairs]
    shown = [shuffled(example, seed, epoch) for (example, _), epoch in zip(pairs, epochs, strict=True)]
    names = [[candidate.name for candidate in example.candidates] for example in shown]
    batch = RankingBatch(shown)
    if "letters" in objectives:
        batch.letters, batch.letter_ids = letter_inputs(mllm, images, names)
    if "likelihood" in objectives:
        batch.naming, batch.names, batch.owners = naming_inputs(mllm, images, names)
    if "list" in objectives:
        targets = [list_answer(target_names(example, target)) for example, _ in pairs]
        batch.sorting = mllm.labelled(images, [list_prompt(row) for row in names], targets)
    return batch


def to_device(inputs: BatchFeature, like: Tensor) -> BatchFeature:
    """Moves inputs to a parameter's device, and floating inputs to its type."""
    moved = {
        key: value.to(like.device, like.dtype if value.is_floating_point() else None) for key, value in inputs.items()
    }
    return BatchFeature(moved)
