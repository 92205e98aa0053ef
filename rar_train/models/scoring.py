"""Scoring of candidates by the MLLM, differentiable for training.

``letter_scores`` reads all candidates from the logits at one position (FIRST, arXiv 2406.15657).
``name_scores`` computes each candidate's log-likelihood as the answer; image and prompt are processed once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature
from transformers.utils import ModelOutput

from rar_train.models.inputs import to_device
from rar_train.models.mllm import Mllm, pad_rows

_MAX_PADDING = 256  # padding tokens that a group of answers may have; they cost about as much as another pass


def letter_scores(mllm: Mllm, inputs: BatchFeature, letters: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Computes the logits of the candidates' letters.

    Args:
        mllm: The ranker.
        inputs: Letters prompts, padded on the left.
        letters: Token ids of the letters, at least as many as the longest list of candidates.
        counts: Number of candidates of each row.

    Returns:
        Tensor: Shape ``[n, max(counts)]``; ``-inf`` beyond a row's candidates.
    """
    logits = mllm.model(**inputs, logits_to_keep=1).logits[:, -1].float()
    scores = logits[:, torch.tensor(letters[: max(counts)], device=logits.device)]
    beyond = torch.arange(max(counts)) >= torch.tensor(counts)[:, None]
    return scores.masked_fill(beyond.to(scores.device), float("-inf"))


def name_scores(mllm: Mllm, inputs: BatchFeature, answers: Sequence[Sequence[int]], owners: Sequence[int]) -> Tensor:
    """Computes log-likelihoods of answers.

    Args:
        mllm: The ranker.
        inputs: Naming prompts of ``n`` images, padded on the left.
        answers: Token ids of ``m`` answers, each with its turn's end.
        owners: The row of ``inputs`` that each answer belongs to.

    Returns:
        Tensor: Sums of token log-probabilities, shape ``[m]``.
    """
    prefix = mllm.model(**inputs, logits_to_keep=1, use_cache=True)
    device = prefix.logits.device
    rows = torch.tensor(owners, device=device)
    firsts = torch.tensor([answer[0] for answer in answers], device=device)
    first = prefix.logits[:, -1].float().log_softmax(-1)[rows, firsts]
    deltas = mllm.base.model.rope_deltas if mllm.family.mrope else None
    lengths = [len(answer) for answer in answers]
    # Under ZeRO-3 every forward pass needs all processes, so each process must run the same number.
    sharded = hasattr(next(mllm.model.parameters()), "ds_id")
    groups = [range(len(answers))] if sharded else _group_by_length(lengths)
    positions, rest = [], []
    for group in groups:
        indices = torch.tensor(list(group), device=device)
        positions.append(indices)
        rest.append(_rest_scores(mllm, prefix, inputs, [answers[index] for index in group], rows[indices], deltas))
    return first + torch.cat(rest)[torch.cat(positions).argsort()]


def _group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Groups indices of answers of similar length, which are processed in one pass with little padding.

    Args:
        lengths: Lengths of all answers, in tokens.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    groups: list[list[int]] = [[]]
    for index in order:
        group = groups[-1]
        if group and lengths[index] > lengths[group[-1]]:
            padding = sum(lengths[index] - lengths[member] for member in group)
            if padding > _MAX_PADDING:
                groups.append([])
        groups[-1].append(index)
    return groups


def _rest_scores(
    mllm: Mllm,
    prefix: ModelOutput,
    inputs: BatchFeature,
    answers: Sequence[Sequence[int]],
    rows: Tensor,
    deltas: Tensor | None,
) -> Tensor:
    """Computes log-likelihoods of answers after their first token, shape ``[m]``; the prompts' cache is not changed."""
    ids = pad_rows(answers, 0).to(rows.device)
    if ids.shape[1] == 1:
        return torch.zeros(len(answers), device=rows.device)
    lengths = torch.tensor([len(answer) for answer in answers], device=rows.device)
    real = torch.arange(ids.shape[1], device=rows.device) < lengths[:, None]
    cache = copy.copy(prefix.cache)
    cache.layers = [copy.copy(layer) for layer in cache.layers]
    cache.batch_select_indices(rows)
    mask = torch.cat([inputs["attention_mask"][rows], real.to(inputs["attention_mask"].dtype)], 1)
    # The last token predicts nothing, so it is left out of the input.
    more = {} if deltas is None else {"position_ids": _mrope_positions(mask, deltas[rows], ids.shape[1])}
    output = mllm.model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], cache=cache, use_cache=True, **more)
    targets = ids[:, 1:]
    losses = F.cross_entropy(output.logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return -(losses.view_as(targets) * real[:, 1:]).sum(1)


def _mrope_positions(mask: Tensor, deltas: Tensor, length: int) -> Tensor:
    """Computes positions of answers after an image in Qwen-VL, shape ``[3, m, length - 1]``.

    An image takes fewer positions than tokens; the model stores the difference for each row of its last batch.
    """
    positions = (mask.long().cumsum(1) - 1)[:, -length:-1] + deltas
    return positions.expand(3, -1, -1)


def split_by_row(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """Splits a flat list of candidates' scores into rows: ``[n, max(counts)]``, padded with ``-inf``."""
    return torch.nn.utils.rnn.pad_sequence(
        list(scores.split(list(counts))), batch_first=True, padding_value=float("-inf")
    )


def answer_scores(mllm: Mllm, labelled: BatchFeature) -> tuple[Tensor, Tensor]:
    """Computes log-likelihoods of the answers of full conversations.

    Args:
        mllm: The ranker.
        labelled: ``n`` conversations with ``labels`` on their answers, padded on either side.

    Returns:
        tuple[Tensor, Tensor]: Sums of token log-probabilities, and numbers of answer tokens, each of shape ``[n]``.
    """
    first = int((labelled["labels"] != -100).int().argmax(1).min())
    inputs = to_device(labelled, next(mllm.model.parameters()))
    labels = inputs.pop("labels")[:, first:]
    logits = mllm.model(**inputs, logits_to_keep=labels.shape[1] + 1).logits[:, :-1].float()
    # cross_entropy returns 0 for unlabelled tokens.
    tokens = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    return -tokens.sum(1), (labels != -100).sum(1)


def answer_loss(mllm: Mllm, labelled: BatchFeature) -> Tensor:
    """Computes the language-model loss on each conversation's answer, a mean over its tokens: shape ``[n]``.

    On sorted lists it is the paper's objective. Hugging Face's ``loss`` is a mean over all tokens of the batch,
    in which an example with a short answer counts for less.
    """
    scores, tokens = answer_scores(mllm, labelled)
    return -scores / tokens
