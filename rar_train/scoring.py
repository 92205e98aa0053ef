"""Scores of candidates from the MLLM, with gradients where they are wanted.

``letter_scores`` reads all candidates from the logits at one position (FIRST, arXiv 2406.15657).
``name_scores`` gives each candidate's log-likelihood as the answer; image and prompt pass once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature

from rar_train.backend import Mllm, pad_rows


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
    rows = torch.tensor(owners, device=prefix.logits.device)
    ids = pad_rows(answers, 0).to(rows.device)
    lengths = torch.tensor([len(answer) for answer in answers], device=rows.device)
    real = torch.arange(ids.shape[1], device=rows.device) < lengths[:, None]
    cache = prefix.past_key_values
    cache.batch_select_indices(rows)
    mask = torch.cat([inputs["attention_mask"][rows], real.to(inputs["attention_mask"].dtype)], 1)
    # The last token predicts nothing, so it needs no pass of its own.
    more = {"position_ids": _mrope_positions(mllm, mask, rows, ids.shape[1])} if mllm.family.mrope else {}
    rest = mllm.model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache, use_cache=True, **more)
    logits = torch.cat([prefix.logits[rows, -1:], rest.logits], 1).float()
    tokens = -F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(ids)
    return (tokens * real).sum(1)


def _mrope_positions(mllm: Mllm, mask: Tensor, rows: Tensor, length: int) -> Tensor:
    """Positions of answers behind an image in Qwen-VL, shape ``[3, m, length - 1]``.

    An image takes fewer positions than tokens; the model keeps the difference of each row that it last saw.
    """
    places = (mask.long().cumsum(1) - 1)[:, -length:-1] + mllm.base.model.rope_deltas[rows]
    return places.expand(3, -1, -1)


def by_owner(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """Lays a flat list of candidates' scores out by row: ``[n, max(counts)]``, ``-inf`` beyond."""
    return torch.nn.utils.rnn.pad_sequence(
        list(scores.split(list(counts))), batch_first=True, padding_value=float("-inf")
    )
