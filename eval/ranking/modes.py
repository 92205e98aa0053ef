"""The ranking modes: how the MLLM is prompted and scored, many images per pass.

In the modes that score, requests about the same image share one row of the pass (``rar_train.models.forest``).

``likelihood``: log-likelihood of each candidate's name; the prompt holds no candidates, so neither their order nor the
other candidates matter, and a score is valid for every memory that proposes the class.
``letters``: the logits of the candidates' letters after a prompt that lists them.
``yes_no``: the log-odds of yes and no after a question about each candidate, or after a reranker's template that shows
it; as ``likelihood``, valid for every memory.
``constrained``: the paper's list, decoded under a constraint that only lets permutations of the candidates through.
``generate``: the paper's list as free text.
``name`` is not a ranking mode: it generates names as free text, where there are no candidates yet.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import BatchFeature

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import list_answer
from eval.ranking.constrained import PermutationConstraint
from eval.ranking.prompt import build_prompt
from eval.ranking.request import RankingMode, RankingRequest, Response
from rar_train.models.decoding import DIGITS, decode_texts, generate
from rar_train.models.forest import Conversation, Forest, yes_no_conversations
from rar_train.models.inputs import pin_inputs, to_device
from rar_train.models.mllm import Mllm
from rar_train.models.planting import plant
from rar_train.models.scoring import pair_scores, score


@dataclass(frozen=True)
class PreparedBatch:
    """A batch of requests as model inputs, made without the model, so that a worker process can make it.

    Attributes:
        mode: How the model is prompted.
        requests: The batch.
        inputs: Model inputs on the CPU: trees in the modes that score.
        order: In the modes that score, the indices of the requests in the order of the trees' conversations.
        lists: In mode ``constrained``, each request's prompt.
        limits: In modes ``generate`` and ``name``, the token limit of each reply.
    """

    mode: RankingMode
    requests: Sequence[RankingRequest]
    inputs: BatchFeature | Forest
    order: Sequence[int] = ()
    lists: Sequence[str] = ()
    limits: Sequence[int] = ()

    def pin_memory(self) -> PreparedBatch:
        """Returns the batch with pinned inputs; a data loader with ``pin_memory`` calls it."""
        pinned = self.inputs.pin_memory() if isinstance(self.inputs, Forest) else pin_inputs(self.inputs)
        return replace(self, inputs=pinned)


def prepare_batch(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> PreparedBatch:
    """Decodes a batch's images, and builds the model's inputs; uses the processor only.

    Args:
        mllm: The ranker.
        mode: How to prompt it.
        requests: One batch.

    Raises:
        UserError: An image is missing or does not decode, there are more candidates than letters in mode ``letters``,
            or a request has examples but the model family takes a single image or the mode is ``yes_no``.
    """
    return _MODES[mode.mode][0](mllm, mode, requests)


@torch.inference_mode()
def answer_batch(mllm: Mllm, batch: PreparedBatch) -> list[Response]:
    """Runs the model on a prepared batch, and returns a response per request."""
    return _MODES[batch.mode.mode][1](mllm, batch)


def run_batch(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> list[Response]:
    """Prepares a batch of requests and runs the model on it; see ``prepare_batch``."""
    return answer_batch(mllm, prepare_batch(mllm, mode, requests))


def _round(scores: Tensor) -> tuple[float, ...]:
    return tuple(round(score, DIGITS) for score in scores.tolist())


def _plant(
    mllm: Mllm,
    mode: RankingMode,
    requests: Sequence[RankingRequest],
    converse: Callable[[RankingRequest], list[Conversation]],
) -> PreparedBatch:
    """Builds a tree for each image, or for each request with examples, with the conversations of its requests."""
    by_image: dict[Hashable, list[int]] = {}
    for index, request in enumerate(requests):
        image = request.image if isinstance(request.image, str) else id(request.image)
        key = index if request.examples else (image, request.contents)
        by_image.setdefault(key, []).append(index)
    groups = list(by_image.values())
    images = [requests[group[0]].images() for group in groups]
    asked = [[conversation for index in group for conversation in converse(requests[index])] for group in groups]
    order = [index for group in groups for index in group]
    return PreparedBatch(mode, requests, plant(mllm, images, asked), order)


def _prepare_likelihood(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> PreparedBatch:
    def name_conversations(request: RankingRequest) -> list[Conversation]:
        prompt = build_prompt(mode, request)
        return [Conversation(prompt, name) for name in request.names]

    return _plant(mllm, mode, requests, name_conversations)


def _by_request(batch: PreparedBatch, scores: Tensor) -> list[Response]:
    """Returns a response per request from the scores of all candidates, in the order of the trees' conversations."""
    rows = scores.split([len(batch.requests[index].names) for index in batch.order])
    by_request = {index: Response(_round(row)) for index, row in zip(batch.order, rows, strict=True)}
    return [by_request[index] for index in range(len(batch.requests))]


def _answer_likelihood(mllm: Mllm, batch: PreparedBatch) -> list[Response]:
    return _by_request(batch, score(mllm, batch.inputs).answers)


def _prepare_letters(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> PreparedBatch:
    return _plant(mllm, mode, requests, lambda request: [Conversation(build_prompt(mode, request))])


def _answer_letters(mllm: Mllm, batch: PreparedBatch) -> list[Response]:
    letters = mllm.letter_ids(max(len(request.names) for request in batch.requests))
    scores = dict(zip(batch.order, score(mllm, batch.inputs, letters).letters, strict=True))
    responses = []
    for position, request in enumerate(batch.requests):
        by_index = dict(zip(request.shown, _round(scores[position]), strict=False))
        responses.append(Response(tuple(by_index[index] for index in range(len(request.names)))))
    return responses


def _prepare_yes_no(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> PreparedBatch:
    if any(request.examples for request in requests):
        raise UserError("mode yes_no shows each candidate alone, without examples; rank by letters to show them")

    def ask(request: RankingRequest) -> list[Conversation]:
        return yes_no_conversations(request.names, request.descriptions, mllm.reranker is not None)

    return _plant(mllm, mode, requests, ask)


def _answer_yes_no(mllm: Mllm, batch: PreparedBatch) -> list[Response]:
    scores = score(mllm, batch.inputs, mllm.yes_no_ids())
    return _by_request(batch, pair_scores(mllm, scores.letters, scores.states))


def _prepare_constrained(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> PreparedBatch:
    prompts = [build_prompt(mode, request) for request in requests]
    inputs = mllm.inputs([request.images() for request in requests], prompts)
    return PreparedBatch(mode, requests, inputs, lists=prompts)


def _answer_constrained(mllm: Mllm, batch: PreparedBatch) -> list[Response]:
    inputs = to_device(batch.inputs, next(mllm.model.parameters()))
    constraints = [
        PermutationConstraint(
            lambda names, prompt=prompt: mllm.answer_ids(prompt, list_answer(names)), request.shown_names
        )
        for prompt, request in zip(batch.lists, batch.requests, strict=True)
    ]
    start, end = inputs["input_ids"].shape[1], mllm.turn_end_id

    def allowed(row: int, ids: Tensor) -> list[int]:
        return constraints[row].allowed(ids[start:].tolist()) or [end]

    longest = max(len(tokens) for constraint in constraints for tokens in constraint.lists.values())
    return [Response(reply=text) for text in decode_texts(mllm, generate(mllm, inputs, 2 * longest, allowed))]


def _prepare_generate(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> PreparedBatch:
    prompts = [build_prompt(mode, request) for request in requests]
    # A reply may be as long as the request's own list and a little more, whatever else is in the batch.
    limits = [
        mode.reply_tokens or len(mllm.answer_ids(prompt, list_answer(request.shown_names))) + 8
        for prompt, request in zip(prompts, requests, strict=True)
    ]
    inputs = mllm.inputs([request.images() for request in requests], prompts)
    return PreparedBatch(mode, requests, inputs, limits=limits)


def _prepare_name(mllm: Mllm, mode: RankingMode, requests: Sequence[RankingRequest]) -> PreparedBatch:
    prompts = [build_prompt(mode, request) for request in requests]
    inputs = mllm.inputs([request.images() for request in requests], prompts)
    return PreparedBatch(mode, requests, inputs, limits=[mode.reply_tokens] * len(requests))


def _answer_with_text(mllm: Mllm, batch: PreparedBatch) -> list[Response]:
    inputs = to_device(batch.inputs, next(mllm.model.parameters()))
    replies = generate(mllm, inputs, max(batch.limits))
    replies = [reply[:limit] for reply, limit in zip(replies, batch.limits, strict=True)]
    return [Response(reply=text) for text in decode_texts(mllm, replies)]


_MODES = {
    "likelihood": (_prepare_likelihood, _answer_likelihood),
    "letters": (_prepare_letters, _answer_letters),
    "yes_no": (_prepare_yes_no, _answer_yes_no),
    "constrained": (_prepare_constrained, _answer_constrained),
    "generate": (_prepare_generate, _answer_with_text),
    "name": (_prepare_name, _answer_with_text),
}
"""How each mode prepares a batch and how it answers it."""
