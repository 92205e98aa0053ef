"""Collation: turns ranking examples into one prefix tree each, with the conversations of all objectives."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import zip_longest

from PIL import Image

from data_prep.core.records import RankingExample
from data_prep.core.rng import shuffle_candidates
from data_prep.prompting.prompts import NAMING, letters_prompt, list_answer, list_prompt
from data_prep.prompting.targets import target_order
from data_prep.settings import REWARDED
from rar_train.models.forest import Conversation, Forest, yes_no_conversations
from rar_train.models.mllm import Mllm
from rar_train.models.planting import plant

CONVERSATIONS = {
    "letters": "letters",
    "listwise": "letters",
    "likelihood": "likelihood",
    "yes_no": "yes_no",
    "list": "list",
} | {name: name.removeprefix("reward_") for name in REWARDED}
"""The conversations that each objective reads."""


class RankingBatch:
    """A batch of ranking examples, with one prefix tree of each example's conversations.

    A plain class, which Lightning does not move to the device: the trees are moved when they are scored.

    Attributes:
        examples: Ranking examples with their candidates in the order shown.
        truths: Position of the true candidate in each example.
        counts: Number of candidates in each example.
        orders: Each example's target order as positions among the candidates shown, best first; empty where no
            objective needs it.
        retriever_hits: Whether the retriever's first candidate is the true one, for each example.
        images: The examples' images.
        modes: The conversations that each tree has: ``letters``, ``yes_no``, ``likelihood`` and ``list``, some or all.
        forest: The trees. Without answers are an example's letters and then its candidates' questions; its answers are
            its candidates' names and then its sorted list.
        letter_ids: Token ids of the letters; empty without ``letters``.
        yes_no_ids: Token ids of yes and no; empty without ``yes_no``.
        weights: Weight of each example's loss. The mean of the weighted sums over the processes and passes of a step
            equals the mean over the step's examples.
    """

    def __init__(
        self,
        examples: list[RankingExample],
        orders: list[list[int]],
        retriever_hits: list[bool],
        images: list[Image.Image],
        modes: Collection[str],
        forest: Forest,
        letter_ids: list[int],
        yes_no_ids: list[int],
    ):
        self.examples, self.orders, self.images = examples, orders, images
        self.retriever_hits = retriever_hits
        self.modes, self.forest = modes, forest
        self.letter_ids, self.yes_no_ids = letter_ids, yes_no_ids
        self.weights = [1 / len(examples)] * len(examples)
        self.truths = [example.truth for example in examples]
        self.counts = [len(example.candidates) for example in examples]

    def pin_memory(self) -> RankingBatch:
        """Pins the inputs; a data loader with ``pin_memory`` calls it."""
        self.forest = self.forest.pin_memory()
        return self

    @property
    def tokens(self) -> int:
        """Number of tokens in the trees, without padding."""
        return self.forest.tokens


def collate(
    mllm: Mllm,
    pairs: Sequence[tuple[RankingExample, Image.Image]],
    objectives: Collection[str],
    seed: int,
    epochs: Sequence[int],
    target: str = "truth_first",
) -> RankingBatch:
    """Builds a batch.

    Args:
        mllm: Its processor tokenises prompts and prepares images.
        pairs: Examples, candidates in the retriever's order, with their images; the truth is among the candidates.
        objectives: Which of ``letters``, ``likelihood``, ``yes_no``, ``list`` and ``listwise`` to prepare.
        seed: Seed of the candidates' order.
        epochs: Epoch of each pair; it determines the order shown.
        target: ``mining.target``, the order that ``list`` and ``listwise`` train towards.
    """
    images = [image for _, image in pairs]
    modes = {CONVERSATIONS[name] for name in objectives}
    shown = [shuffle_candidates(example, seed, epoch) for (example, _), epoch in zip(pairs, epochs, strict=True)]
    targets = [target_order(example, target) for example, _ in pairs] if {"list", "listwise"} & set(objectives) else []
    orders = [
        [example.candidates.index(candidate) for candidate in ordered]
        for example, ordered in zip(shown, targets, strict=False)
    ]
    as_pairs = mllm.reranker is not None
    asked = [
        list_conversations(example, order, modes, as_pairs)
        for example, order in zip_longest(shown, orders, fillvalue=[])
    ]
    letters = mllm.letter_ids(max(len(example.candidates) for example in shown)) if "letters" in modes else []
    yes_no = mllm.yes_no_ids() if "yes_no" in modes else []
    hits = [example.truth == 0 for example, _ in pairs]
    return RankingBatch(shown, orders, hits, images, modes, plant(mllm, images, asked), letters, yes_no)


def list_conversations(
    example: RankingExample, order: list[int], modes: Collection[str], as_pairs: bool = False
) -> list[Conversation]:
    """Lists an example's conversations.

    Args:
        example: With its candidates in the order shown.
        order: The target order, as positions.
        modes: As in ``RankingBatch``.
        as_pairs: Whether the model has a reranker's template.
    """
    names, described = [candidate.name for candidate in example.candidates], example.descriptions
    conversations = []
    if "letters" in modes:
        conversations.append(Conversation(letters_prompt(names, described)))
    if "yes_no" in modes:
        conversations += yes_no_conversations(names, described, as_pairs)
    if "likelihood" in modes:
        conversations += [Conversation(NAMING, name) for name in names]
    if "list" in modes:
        prompt = list_prompt(names, descriptions=described)
        conversations.append(Conversation(prompt, list_answer([names[position] for position in order])))
    return conversations
