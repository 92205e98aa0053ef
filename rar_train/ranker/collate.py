"""From ranking examples to what the objectives compute on."""

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
    """A batch for each objective that is in use; the others are None.

    A plain class, which Lightning hands on untouched: each objective moves its own inputs.

    Attributes:
        examples: With their candidates in the order shown.
        truths: The true candidate's position in each.
        counts: Candidates of each.
        orders: Each row's target as positions among the candidates shown, best first; empty where none is asked for.
        images: The examples' pictures.
        letters: Inputs of the letters prompts, padded on the left.
        letter_ids: Token ids of the letters.
        naming: Inputs of the naming prompts, padded on the left.
        names: Token ids of every candidate's name as an answer, example after example.
        owners: The example that each of ``names`` belongs to.
        conversations: In place of the three before, a whole conversation for every candidate, padded on the left.
        sorting: Inputs and labels of the list prompts, padded on the right.
        weights: What each example's loss counts. The mean of the weighted sums over the processes and passes of a
            step is the mean over the step's examples.
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
        """Tokens that a pass over the batch reads, padding and the candidates' names behind a cache left out."""
        inputs = (self.letters, self.naming, self.conversations, self.sorting)
        return sum(int(one["attention_mask"].sum()) for one in inputs if one is not None)


def collate(
    mllm: Mllm,
    pairs: Sequence[tuple[RankingExample, Image.Image]],
    objectives: Collection[str],
    seed: int,
    epochs: Sequence[int],
    target: str = "truth_first",
    cached: bool = True,
) -> RankingBatch:
    """Makes a batch.

    Args:
        mllm: Tokenises and prepares images.
        pairs: Examples in retriever order with their images; the truth is among the candidates.
        objectives: Which of ``letters``, ``likelihood``, ``list`` and ``listwise`` to prepare.
        seed: Of the candidates' order.
        epochs: The epoch that each pair belongs to; it decides the order shown.
        target: ``mining.target``, the order that ``list`` and ``listwise`` ask for.
        cached: Whether the model's cache may carry image and prompt on to the candidates' names, so that they pass
            once. Under gradient checkpointing it may not.
    """
    images = [image for _, image in pairs]
    shown = [shuffle_candidates(example, seed, epoch) for (example, _), epoch in zip(pairs, epochs, strict=True)]
    names = [[candidate.name for candidate in example.candidates] for example in shown]
    wanted = [target_order(example, target) for example, _ in pairs] if {"list", "listwise"} & set(objectives) else []
    orders = [[one.candidates.index(c) for c in own] for one, own in zip(shown, wanted, strict=False)]
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
        targets = [list_answer([candidate.name for candidate in own]) for own in wanted]
        batch.sorting = mllm.labelled(images, [list_prompt(row) for row in names], targets)
    return batch
