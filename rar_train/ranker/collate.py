"""Collation: turns ranking examples into the inputs of each training objective."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from PIL import Image
from transformers import BatchFeature

from data_prep.core.records import RankingExample
from data_prep.core.rng import shuffle_candidates
from data_prep.prompting.prompts import NAMING, list_answer, list_prompt
from data_prep.prompting.targets import target_order
from rar_train.models.inputs import letter_inputs, naming_inputs
from rar_train.models.mllm import Mllm


class RankingBatch:
    """Model inputs for each objective in use; those of other objectives are None.

    A plain class, which Lightning does not move to the device: each objective moves its own inputs.

    Attributes:
        examples: Ranking examples with their candidates in the order shown.
        truths: Position of the true candidate in each example.
        counts: Number of candidates in each example.
        orders: Each example's target order as positions among the candidates shown, best first; empty where no
            objective needs it.
        images: The examples' images.
        letters: Inputs of the letters prompts, padded on the left.
        letter_ids: Token ids of the letters.
        naming: Inputs of the naming prompts, padded on the left.
        names: Token ids of each candidate's name as an answer, example by example.
        owners: Index of the example that each of ``names`` belongs to.
        conversations: Used instead of ``naming``, ``names`` and ``owners``: a full conversation for each candidate,
            padded on the left.
        sorting: Inputs and labels of the list prompts, padded on the right.
        weights: Weight of each example's loss. The mean of the weighted sums over the processes and passes of a step
            equals the mean over the step's examples.
    """

    def __init__(self, examples: list[RankingExample], orders: list[list[int]], images: list[Image.Image]):
        self.examples, self.orders, self.images = examples, orders, images
        self.weights = [1 / len(examples)] * len(examples)
        self.truths = [example.truth for example in examples]
        self.counts = [len(example.candidates) for example in examples]
        self.letters: BatchFeature | None = None
        self.letter_ids: list[int] | None = None
        self.naming: BatchFeature | None = None
        self.names: list[tuple[int, ...]] | None = None
        self.owners: list[int] | None = None
        self.conversations: BatchFeature | None = None
        self.sorting: BatchFeature | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens in the inputs, without padding and without names that are scored from a cache."""
        inputs = (self.letters, self.naming, self.conversations, self.sorting)
        return sum(int(encoded["attention_mask"].sum()) for encoded in inputs if encoded is not None)


def collate(
    mllm: Mllm,
    pairs: Sequence[tuple[RankingExample, Image.Image]],
    objectives: Collection[str],
    seed: int,
    epochs: Sequence[int],
    target: str = "truth_first",
    cached: bool = True,
) -> RankingBatch:
    """Builds a batch.

    Args:
        mllm: Its processor tokenises prompts and prepares images.
        pairs: Examples, candidates in the retriever's order, with their images; the truth is among the candidates.
        objectives: Which of ``letters``, ``likelihood``, ``list`` and ``listwise`` to prepare.
        seed: Seed of the candidates' order.
        epochs: Epoch of each pair; it determines the order shown.
        target: ``mining.target``, the order that ``list`` and ``listwise`` train towards.
        cached: Whether image and prompt are encoded once and their key-value cache is shared by the candidates' names.
            Must be False under gradient checkpointing.
    """
    images = [image for _, image in pairs]
    shown = [shuffle_candidates(example, seed, epoch) for (example, _), epoch in zip(pairs, epochs, strict=True)]
    names = [[candidate.name for candidate in example.candidates] for example in shown]
    targets = [target_order(example, target) for example, _ in pairs] if {"list", "listwise"} & set(objectives) else []
    orders = [
        [example.candidates.index(candidate) for candidate in ordered]
        for example, ordered in zip(shown, targets, strict=False)
    ]
    batch = RankingBatch(shown, orders, images)
    if {"letters", "listwise"} & set(objectives):
        batch.letters, batch.letter_ids = letter_inputs(mllm, images, names)
    if "likelihood" in objectives and cached:
        batch.naming, batch.names, batch.owners = naming_inputs(mllm, images, names)
    if "likelihood" in objectives and not cached:
        repeated = [image for image, row in zip(images, names, strict=True) for _ in row]
        answers = [name for row in names for name in row]
        batch.conversations = mllm.labelled(repeated, [NAMING] * len(answers), answers, "left")
    if "list" in objectives:
        answers = [list_answer([candidate.name for candidate in ordered]) for ordered in targets]
        batch.sorting = mllm.labelled(images, [list_prompt(row) for row in names], answers)
    return batch
