"""Builds the prefix trees of a batch with the processor alone, so that a worker process can do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import NAMING
from rar_train.models.forest import Conversation, Forest, Path
from rar_train.models.inputs import pad_rows
from rar_train.models.mllm import Mllm
from rar_train.models.tree import PrefixTree, common_prefix, merge_sequences

ImageGroup = Image.Image | Sequence[Image.Image]
"""The image, or the images, of a conversation."""


@dataclass(frozen=True)
class _Row:
    """An image group, the prompt that the processor renders with it, and the conversations that share both.

    Attributes:
        group: Its images.
        prompt: The prompt.
        pair: Whether a reranker's template shows the prompts as documents.
        conversations: Indices into the flat list of conversations.
    """

    group: ImageGroup
    prompt: str
    pair: bool
    conversations: list[int]


@dataclass(frozen=True)
class _Planted:
    """One row's tree, with the tokens of its head and, for each conversation, those of its prompt and answer."""

    row: _Row
    head: list[int]
    tree: PrefixTree
    prompts: dict[int, int]
    answers: dict[int, tuple[int, ...]]


def plant(mllm: Mllm, groups: Sequence[ImageGroup], conversations: Sequence[Sequence[Conversation]]) -> Forest:
    """Builds the trees of a batch.

    Args:
        mllm: Its processor tokenises prompts and prepares images. A tree that would have more nodes after its head
            than ``tree_tokens`` allows is split into several rows with the same image.
        groups: The image, or images, of each tree.
        conversations: The conversations about them, one or more.

    Returns:
        Forest: Usually a row for each image, and one more where some conversations have a reranker's template. Families
        that read the prompt in both directions, and templates with the text before the image, have a row for each
        prompt.
    """
    flat = [conversation for asked in conversations for conversation in asked]
    rows, first = [], 0
    for group, asked in zip(groups, conversations, strict=True):
        by_head: dict[tuple[str, bool], list[int]] = {}
        for index, conversation in enumerate(asked, first):
            prompt = conversation.prompt if _has_own_row(mllm, conversation.pair) else NAMING
            by_head.setdefault((prompt, conversation.pair), []).append(index)
        rows += [_Row(group, *head, indices) for head, indices in by_head.items()]
        first += len(asked)
    inputs = _process(mllm, rows)
    planted = []
    for row, ids, mask in zip(rows, inputs["input_ids"], inputs["attention_mask"], strict=True):
        planted += _grow(mllm, row, ids[mask.bool()].tolist(), flat)
    if len(planted) > len(rows):
        inputs = _process(mllm, [tree.row for tree in planted])
    return _stack(mllm, planted, inputs, len(flat))


def _has_own_row(mllm: Mllm, pair: bool) -> bool:
    """Whether each prompt has a row of its own, with the whole prompt as its head."""
    images_first = mllm.pairs_start_with_images if pair else mllm.images_first
    return mllm.bidirectional == "prompt" or not images_first


def _process(mllm: Mllm, rows: Sequence[_Row]) -> BatchFeature:
    return mllm.inputs([row.group for row in rows], [row.prompt for row in rows], "right", [row.pair for row in rows])


def _split_prompt(mllm: Mllm, row: _Row, ids: list[int]) -> tuple[int, list[int]]:
    """Finds the part of a processed prompt up to its last image token, and the text's tokens that stand for it.

    Returns:
        tuple: Its number of tokens, and the same part as the tokenizer alone gives it, with one placeholder an image.
    """
    text = _text_ids(mllm, row, row.prompt)
    image = mllm.config.image_token_id
    after = ids[::-1].index(image)
    same = min(common_prefix(ids[::-1], text[::-1]), after)
    return len(ids) - same, text[: len(text) - same]


def _text_ids(mllm: Mllm, row: _Row, prompt: str) -> list[int]:
    images = 1 if isinstance(row.group, Image.Image) else len(row.group)
    render = mllm.render_pair if row.pair else mllm.render
    return mllm.processor.tokenizer(render(prompt, images=images)).input_ids


def _grow(mllm: Mllm, row: _Row, ids: list[int], conversations: Sequence[Conversation]) -> list[_Planted]:
    """Merges a row's conversations.

    Args:
        mllm: Tokenises them.
        row: The row.
        ids: Tokens of its processed prompt.
        conversations: All conversations.
    """
    head, placeholder = (len(ids), []) if _has_own_row(mllm, row.pair) else _split_prompt(mllm, row, ids)
    suffix = list(mllm.reranker.suffix) if row.pair and mllm.reranker else []
    prompts = {row.prompt: ids[head:] + suffix}
    tails, answers, lengths = [], {}, {}
    for index in row.conversations:
        prompt, answer = conversations[index].prompt, conversations[index].answer
        if prompt not in prompts:
            text = _text_ids(mllm, row, prompt)
            if text[: len(placeholder)] != placeholder:
                raise UserError(f"{mllm.id}: its chat template renders the image differently before {prompt!r}")
            prompts[prompt] = text[len(placeholder) :] + suffix
        answers[index] = () if answer is None else mllm.answer_ids(prompt, answer)
        lengths[index] = len(prompts[prompt])
        tails.append([*prompts[prompt], *answers[index][:-1]])
    trees = merge_sequences(head, tails, mllm.tree_tokens)
    for tree in trees:
        tree.paths = {row.conversations[index]: nodes for index, nodes in tree.paths.items()}
    return [_Planted(row, ids[:head], tree, lengths, answers) for tree in trees]


def _paths(planted: Sequence[_Planted], count: int) -> list[Path]:
    """Returns the path of each conversation, in the caller's order."""
    paths = {}
    for row, plant in enumerate(planted):
        for index, nodes in plant.tree.paths.items():
            length = plant.prompts[index]
            start = nodes[length - 1] if length else plant.tree.head - 1
            paths[index] = Path(row, nodes, start, plant.answers[index])
    return [paths[index] for index in range(count)]


def _blocks(mllm: Mllm, planted: Sequence[_Planted], types: dict[str, Tensor]) -> Tensor | None:
    """Returns the block of each node, where the family attends in both directions: its image, all images, the prompt.

    Args:
        mllm: The ranker.
        planted: The rows.
        types: Token types by their input's name.
    """
    if mllm.bidirectional == "none":
        return None
    if mllm.bidirectional == "prompt":
        return pad_rows([[0] * plant.tree.head + [-1] * len(plant.tree.ids) for plant in planted], -1)
    if mllm.bidirectional == "images":
        return (types["mm_token_type_ids"] == 1).long() - 1
    return pad_rows([_image_blocks(mllm, plant.head) + [-1] * len(plant.tree.ids) for plant in planted], -1)


def _image_blocks(mllm: Mllm, ids: Sequence[int]) -> list[int]:
    """Numbers the images of a head; -1 for text."""
    image = mllm.config.image_token_id
    blocks, block = [], -1
    for position, token in enumerate(ids):
        block += token == image and (position == 0 or ids[position - 1] != image)
        blocks.append(block if token == image else -1)
    return blocks


def _positions(mllm: Mllm, inputs: BatchFeature, depths: Tensor, heads: Sequence[int]) -> Tensor:
    """Computes position ids: depths, or for M-RoPE the model's own up to the image, and one more a token after it."""
    if not mllm.family.mrope:
        return depths
    known = {name: value for name, value in inputs.items() if name != "pixel_values"}
    own = mllm.mrope_positions(known)
    positions = []
    for row, head in enumerate(heads):
        before = own[:, row, :head]
        after = depths[row, head:] + (before.max() + 1 - head)
        positions.append(torch.cat([before, after.clamp(min=0).expand(3, -1)], 1))
    return torch.stack(positions, 1)


def _stack(mllm: Mllm, planted: Sequence[_Planted], inputs: BatchFeature, count: int) -> Forest:
    """Pads the rows to one length, and lists what is read from them."""
    lengths, heads = [len(plant.tree) for plant in planted], [plant.tree.head for plant in planted]
    width = max(lengths)
    ends = torch.arange(1, width + 1).repeat(len(planted), 1)
    for row, plant in enumerate(planted):
        ends[row, : lengths[row]] = torch.tensor([lengths[row]] * heads[row] + plant.tree.ends)
    depths = pad_rows([[*range(plant.tree.head), *plant.tree.depths] for plant in planted], 0)
    ids = pad_rows([plant.head + plant.tree.ids for plant in planted], mllm.processor.tokenizer.pad_token_id)
    per_token = {name for name, value in inputs.items() if value.shape == inputs["input_ids"].shape}
    types = {}
    for name in sorted(per_token - {"input_ids", "attention_mask"}):
        # An answer has a type of its own only where the processor takes it separately.
        types[name] = torch.full_like(ids, int(mllm.family.suffix))
        for row, head in enumerate(heads):
            types[name][row, :head] = inputs[name][row, :head]
    paths = _paths(planted, count)
    answers = [path for path in paths if path.answer]
    answer_reads = {(path.row, node) for path in answers for node in path.reads}
    letter_reads = {(path.row, path.start) for path in paths if not path.answer} - answer_reads
    reads = [*sorted(answer_reads), *sorted(letter_reads)]
    place = {read: index for index, read in enumerate(reads)}
    return Forest(
        ids=ids,
        depths=depths,
        ends=ends,
        positions=_positions(mllm, inputs, depths, heads),
        blocks=_blocks(mllm, planted, types),
        types=types,
        pixels=BatchFeature({name: value for name, value in inputs.items() if name not in per_token}),
        lengths=lengths,
        heads=heads,
        paths=paths,
        reads=torch.tensor(reads),
        answer_reads=len(answer_reads),
        letter_reads=torch.tensor([place[path.row, path.start] for path in paths if not path.answer], dtype=torch.long),
        token_reads=torch.tensor([place[path.row, node] for path in answers for node in path.reads], dtype=torch.long),
        token_targets=torch.tensor([token for path in answers for token in path.answer], dtype=torch.long),
        answer_lengths=torch.tensor([len(path.answer) for path in answers], dtype=torch.long),
    )
