"""The ranking modes: how the MLLM is prompted and scored, many images per pass.

``likelihood``: log-likelihood of each candidate's name; the prompt holds no candidates, so neither their order nor the
other candidates matter, and a score is valid for every memory that proposes the class.
``letters``: one forward pass over lettered candidates.
``constrained``: the paper's list, decoded under a constraint that only lets permutations of the candidates through.
``generate``: the paper's list as free text.
``name`` is not a ranking mode: it generates names as free text, where there are no candidates yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BatchFeature

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_answer, list_prompt, with_exemplars
from eval.ranking.constrained import PermutationConstraint
from eval.ranking.request import RankingMode, RankingRequest, Response
from rar_train.models.decoding import DIGITS, decode_texts, generate
from rar_train.models.inputs import to_device
from rar_train.models.mllm import Mllm
from rar_train.models.scoring import letter_scores, name_scores, split_by_row


@torch.inference_mode()
def run_batch(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> list[Response]:
    """Runs the model on a batch of requests.

    Args:
        mllm: The ranker.
        mode: How to prompt it.
        requests: One batch.

    Raises:
        UserError: An image is missing or does not decode, there are more candidates than letters in mode ``letters``,
            or a request has examples but the model family takes a single image.
    """
    return _RUN_BY_MODE[mode.mode](mllm, mode, requests)


def _inputs(mllm: Mllm, requests: Sequence[RankingRequest], prompts: Sequence[str]) -> BatchFeature:
    """Builds the model's inputs, each request with its own images, on the model's device."""
    prompts = [
        with_exemplars(prompt) if request.examples else prompt
        for prompt, request in zip(prompts, requests, strict=True)
    ]
    inputs = mllm.inputs([request.images() for request in requests], prompts)
    return to_device(inputs, next(mllm.model.parameters()))


def _round(scores: Tensor) -> tuple[float, ...]:
    return tuple(round(score, DIGITS) for score in scores.tolist())


def _run_likelihood(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> list[Response]:
    inputs = _inputs(mllm, requests, [NAMING] * len(requests))
    answers = [mllm.answer_ids(NAMING, name) for request in requests for name in request.names]
    counts = [len(request.names) for request in requests]
    owners = [index for index, count in enumerate(counts) for _ in range(count)]
    table = split_by_row(name_scores(mllm, inputs, answers, owners), counts)
    return [Response(_round(row[:count])) for row, count in zip(table, counts, strict=True)]


def _run_letters(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> list[Response]:
    counts = [len(request.names) for request in requests]
    if max(counts) > len(LETTERS):
        raise UserError(
            f"{max(counts)} candidates, but mode letters has {len(LETTERS)} letters; rank fewer, or by likelihood"
        )
    prompts = [letters_prompt(request.shown_names) for request in requests]
    letters = mllm.letter_ids(max(counts))
    table = letter_scores(mllm, _inputs(mllm, requests, prompts), letters, counts)
    responses = []
    for row, request in zip(table, requests, strict=True):
        by_index = dict(zip(request.shown, _round(row), strict=False))
        responses.append(Response(tuple(by_index[index] for index in range(len(request.names)))))
    return responses


def _run_constrained(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> list[Response]:
    prompts = [list_prompt(request.shown_names, mode.structured) for request in requests]
    constraints = [
        PermutationConstraint(
            lambda names, prompt=prompt: mllm.answer_ids(prompt, list_answer(names)), request.shown_names
        )
        for prompt, request in zip(prompts, requests, strict=True)
    ]
    inputs = _inputs(mllm, requests, prompts)
    start, end = inputs["input_ids"].shape[1], mllm.turn_end_id

    def allowed(row: int, ids: Tensor) -> list[int]:
        return constraints[row].allowed(ids[start:].tolist()) or [end]

    longest = max(len(tokens) for constraint in constraints for tokens in constraint.lists.values())
    return [Response(reply=text) for text in decode_texts(mllm, generate(mllm, inputs, 2 * longest, allowed))]


def _run_generate(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> list[Response]:
    prompts = [list_prompt(request.shown_names, mode.structured) for request in requests]
    # A reply may be as long as the request's own list and a little more, whatever else is in the batch.
    limits = [
        mode.reply_tokens or len(mllm.answer_ids(prompt, list_answer(request.shown_names))) + 8
        for prompt, request in zip(prompts, requests, strict=True)
    ]
    replies = generate(mllm, _inputs(mllm, requests, prompts), max(limits))
    replies = [reply[:limit] for reply, limit in zip(replies, limits, strict=True)]
    return [Response(reply=text) for text in decode_texts(mllm, replies)]


def _run_name(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> list[Response]:
    inputs = _inputs(mllm, requests, [mode.prompt] * len(requests))
    return [Response(reply=text) for text in decode_texts(mllm, generate(mllm, inputs, mode.reply_tokens))]


_RUN_BY_MODE = {
    "likelihood": _run_likelihood,
    "letters": _run_letters,
    "constrained": _run_constrained,
    "generate": _run_generate,
    "name": _run_name,
}
