"""Scores of candidates from the MLLM, with gradients where they are wanted.

``letter_scores`` reads all candidates from the logits at one position (FIRST, arXiv 2406.15657).
``name_scores`` gives each candidate's log-likelihood as the answer; image and prompt pass once.
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

_PADDED = 256  # tokens that a group of answers may be padded by; about what another pass costs


def letter_scores(mllm: Mllm, inputs: BatchFeature, letters: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Logits of the candidates' letters.

    Args:
        mllm: The ranker.
        inputs: Letters prompts, padded on the left.
        letters: Token ids of the letters, at least as many as the longest list of candidates.
        counts: Candidates of each row.

    Returns:
        Tensor: Shape ``[n, max(counts)]``; ``-inf`` beyond a row's candidates.
    """
    logits = mllm.model(**inputs, logits_to_keep=1).logits[:, -1].float()
    scores = logits[:, torch.tensor(letters[: max(counts)], device=logits.device)]
    beyond = torch.arange(max(counts)) >= torch.tensor(counts)[:, None]
    return scores.masked_fill(beyond.to(scores.device), float("-inf"))


def name_scores(mllm: Mllm, inputs: BatchFeature, answers: Sequence[Sequence[int]], owners: Sequence[int]) -> Tensor:
    """Log-likelihoods of answers.

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
    # Under ZeRO-3 every pass needs all processes, so that each must make as many.
    groups = [range(len(answers))] if hasattr(next(mllm.model.parameters()), "ds_id") else _groups(lengths)
    places, rest = [], []
    for group in groups:
        own = torch.tensor(list(group), device=device)
        places.append(own)
        rest.append(_rest_scores(mllm, prefix, inputs, [answers[place] for place in group], rows[own], deltas))
    return first + torch.cat(rest)[torch.cat(places).argsort()]


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Places of answers that pass together: of like length, so that little is padded.

    Args:
        lengths: Of all answers.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    groups: list[list[int]] = [[]]
    for place in order:
        own = groups[-1]
        if own and lengths[place] > lengths[own[-1]]:
            padded = sum(lengths[place] - lengths[other] for other in own)
            if padded > _PADDED:
                groups.append([])
        groups[-1].append(place)
    return groups


def _rest_scores(
    mllm: Mllm,
    prefix: ModelOutput,
    inputs: BatchFeature,
    answers: Sequence[Sequence[int]],
    rows: Tensor,
    deltas: Tensor | None,
) -> Tensor:
    """Log-likelihoods of what follows the first token of answers, shape ``[m]``; the prompts' cache stays as it is."""
    ids = pad_rows(answers, 0).to(rows.device)
    if ids.shape[1] == 1:
        return torch.zeros(len(answers), device=rows.device)
    lengths = torch.tensor([len(answer) for answer in answers], device=rows.device)
    real = torch.arange(ids.shape[1], device=rows.device) < lengths[:, None]
    cache = copy.copy(prefix.past_key_values)
    cache.layers = [copy.copy(layer) for layer in cache.layers]
    cache.batch_select_indices(rows)
    mask = torch.cat([inputs["attention_mask"][rows], real.to(inputs["attention_mask"].dtype)], 1)
    # The last token predicts nothing, so it needs no pass of its own.
    more = {} if deltas is None else {"position_ids": _mrope_positions(mask, deltas[rows], ids.shape[1])}
    made = mllm.model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache, use_cache=True, **more)
    wanted = ids[:, 1:]
    tokens = -F.cross_entropy(made.logits.float().flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
    return (tokens * real[:, 1:]).sum(1)


def _mrope_positions(mask: Tensor, deltas: Tensor, length: int) -> Tensor:
    """Positions of answers behind an image in Qwen-VL, shape ``[3, m, length - 1]``.

    An image takes fewer positions than tokens; the model keeps the difference of each row that it last saw.
    """
    places = (mask.long().cumsum(1) - 1)[:, -length:-1] + deltas
    return places.expand(3, -1, -1)


def by_owner(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """Lays a flat list of candidates' scores out by row: ``[n, max(counts)]``, ``-inf`` beyond."""
    return torch.nn.utils.rnn.pad_sequence(
        list(scores.split(list(counts))), batch_first=True, padding_value=float("-inf")
    )


def answer_scores(mllm: Mllm, labelled: BatchFeature) -> tuple[Tensor, Tensor]:
    """Log-likelihoods of the answers of whole conversations.

    Args:
        mllm: The ranker.
        labelled: ``n`` conversations with ``labels`` on their answers, padded on either side.

    Returns:
        tuple[Tensor, Tensor]: Sums of token log-probabilities and the answers' tokens, each of shape ``[n]``.
    """
    first = int((labelled["labels"] != -100).int().argmax(1).min())
    inputs = to_device(labelled, next(mllm.model.parameters()))
    labels = inputs.pop("labels")[:, first:]
    logits = mllm.model(**inputs, logits_to_keep=labels.shape[1] + 1).logits[:, :-1].float()
    # cross_entropy gives 0 where nothing is labelled.
    tokens = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    return -tokens.sum(1), (labels != -100).sum(1)


def answer_loss(mllm: Mllm, labelled: BatchFeature) -> Tensor:
    """The language-model loss on each conversation's answer, a mean over its own tokens: shape ``[n]``.

    Of sorted lists it is the paper's objective. Hugging Face's ``loss`` is a mean over the tokens of the whole batch,
    in which an example beside short answers counts for less.
    """
    scores, tokens = answer_scores(mllm, labelled)
    return -scores / tokens
