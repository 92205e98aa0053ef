"""A batch of prefix trees as model inputs: each image once, with all conversations about it in one row.

``rar_train.models.planting`` makes it, and ``rar_train.models.scoring`` runs the model on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import BatchFeature

from data_prep.prompting.prompts import describe, yes_no_prompt
from rar_train.models.inputs import move


@dataclass(frozen=True)
class Conversation:
    """A prompt after which tokens such as the letters are scored, or a prompt with an answer to score.

    Attributes:
        prompt: The user's turn, or the document of a pair.
        answer: The assistant's turn; None to read logits of tokens after the prompt.
        pair: Whether a reranker's template shows the prompt as a document.
    """

    prompt: str
    answer: str | None = None
    pair: bool = False


def yes_no_conversations(names: Sequence[str], descriptions: Sequence[str], as_pairs: bool) -> list[Conversation]:
    """Lists the conversation about each candidate.

    Args:
        names: The candidates.
        descriptions: A text for each, empty for those without one; or no element.
        as_pairs: Whether the model has a reranker's template, which shows a candidate as a document.
    """
    if as_pairs:
        return [Conversation(line, pair=True) for line in describe(names, descriptions)]
    texts = descriptions or [""] * len(names)
    return [Conversation(yes_no_prompt(*candidate)) for candidate in zip(names, texts, strict=True)]


@dataclass(frozen=True)
class Path:
    """Where a conversation's tokens are.

    Attributes:
        row: Its row.
        nodes: Its nodes after the row's head. The last token of an answer predicts nothing and is left out.
        start: The node that predicts what follows the prompt.
        answer: The answer's tokens with the turn's end; empty without an answer.
    """

    row: int
    nodes: list[int]
    start: int
    answer: tuple[int, ...]

    @property
    def reads(self) -> list[int]:
        """The nodes whose next token is scored: the prompt's last, and the answer's."""
        return [self.start, *self.nodes[len(self.nodes) - max(len(self.answer) - 1, 0) :]]


@dataclass(frozen=True)
class Forest:
    """A batch of ``n`` trees of up to ``t`` nodes, padded on the right.

    Attributes:
        ids: Tokens, shape ``[n, t]``.
        depths: Positions in the sequences, shape ``[n, t]``.
        ends: Ends of the nodes' intervals, shape ``[n, t]``; see ``PrefixTree``. Padding sees itself alone.
        positions: Position ids, shape ``[n, t]``, or ``[3, n, t]`` for M-RoPE.
        blocks: For each node, the block whose nodes all see each other, or -1, shape ``[n, t]``; None where attention
            is causal.
        types: Token types by their input's name, each of shape ``[n, t]``.
        pixels: Inputs of the vision tower.
        lengths: Number of nodes of each row.
        heads: Number of nodes at the beginning of each row that are common to its conversations.
        paths: A path for each conversation, image by image.
        reads: Row and node of each hidden state to read, without repetition, answers' first, shape ``[r, 2]``.
        answer_reads: How many of them are read for answers.
        letter_reads: Index into ``reads`` for each conversation without an answer.
        token_reads: Index into ``reads`` for each token of all answers.
        token_targets: The tokens of all answers.
        answer_lengths: Number of tokens of each answer.
    """

    ids: Tensor
    depths: Tensor
    ends: Tensor
    positions: Tensor
    blocks: Tensor | None
    types: dict[str, Tensor]
    pixels: BatchFeature
    lengths: list[int]
    heads: list[int]
    paths: list[Path]
    reads: Tensor
    answer_reads: int
    letter_reads: Tensor
    token_reads: Tensor
    token_targets: Tensor
    answer_lengths: Tensor

    @property
    def tokens(self) -> int:
        """Number of nodes, without padding."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest conversation, its last token included, which is no node."""
        return max(self.heads[path.row] + len(path.nodes) for path in self.paths) + 1

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Forest:
        """Moves all inputs to a device, without waiting for pinned ones, and casts pixels."""
        return self._apply(lambda value: move(value, device, dtype))

    def pin_memory(self) -> Forest:
        """Pins all inputs, as ``DataLoader(pin_memory=True)`` calls it."""
        return self._apply(Tensor.pin_memory)

    def _apply(self, function: Callable[[Tensor], Tensor]) -> Forest:
        tensors = {name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        types = {name: function(value) for name, value in self.types.items()}
        pixels = BatchFeature({name: function(value) for name, value in self.pixels.items()})
        return replace(self, **tensors, types=types, pixels=pixels)

    def mask(self, window: int | None = None, blocks: bool = True) -> Tensor:
        """Computes which node (third dimension) sees which (fourth), shape ``[n, 1, t, t]``.

        Args:
            window: How many positions back a node sees, itself included; None for all.
            blocks: Whether nodes of a block see each other.
        """
        node = torch.arange(self.ids.shape[1], device=self.ids.device)
        visible = (node <= node[:, None]) & (node[:, None] < self.ends[:, None, :])
        if blocks and self.blocks is not None:
            visible |= (self.blocks[:, :, None] == self.blocks[:, None, :]) & (self.blocks >= 0)[:, None, :]
        if window is not None:
            visible &= self.depths[:, :, None] - self.depths[:, None, :] < window
        return visible[:, None]
