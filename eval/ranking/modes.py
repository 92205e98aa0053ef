"""The ways to ask the MLLM, many images at a time.

``likelihood``: log-likelihood of each candidate's name; the prompt holds no candidates, so neither
their order nor their company matters and a score serves every memory that proposes the class.
``letters``: one forward pass over lettered candidates. ``constrained``: the paper's list, of which
only permutations of the candidates can be written. ``generate``: the paper's, in free text.
``name`` is no way to rank: it asks for names, in free text, where nothing is known yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BatchFeature

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_answer, list_prompt, with_examples
from eval.ranking.constrained import Permutations
from eval.ranking.request import RankingMode, RankingRequest, Response
from rar_train.models.decoding import DIGITS, decode_texts, generate
from rar_train.models.inputs import to_device
from rar_train.models.mllm import Mllm
from rar_train.models.scoring import by_owner, letter_scores, name_scores


@torch.inference_mode()
def run_batch(mllm: Mllm, manner: RankingMode, questions: Sequence[RankingRequest]) -> list[Response]:
    """Asks the model a batch of questions.

    Args:
        mllm: The ranker.
        manner: How to ask.
        questions: One batch.

    Raises:
        UserError: An image is missing or does not decode, there are more candidates than letters in
            mode ``letters``, or examples are asked of a family that takes one image.
    """
    return _ASKED[manner.mode](mllm, manner, questions)


def _inputs(mllm: Mllm, questions: Sequence[RankingRequest], prompts: Sequence[str]) -> BatchFeature:
    """Inputs, each question with its own pictures, on the model's device."""
    told = [with_examples(p) if q.examples else p for p, q in zip(prompts, questions, strict=True)]
    inputs = mllm.inputs([question.images() for question in questions], told)
    return to_device(inputs, next(mllm.model.parameters()))


def _rounded(scores: Tensor) -> tuple[float, ...]:
    return tuple(round(score, DIGITS) for score in scores.tolist())


def _by_likelihood(mllm: Mllm, manner: RankingMode, questions: Sequence[RankingRequest]) -> list[Response]:
    inputs = _inputs(mllm, questions, [NAMING] * len(questions))
    answers = [mllm.answer_ids(NAMING, name) for question in questions for name in question.names]
    counts = [len(question.names) for question in questions]
    owners = [number for number, count in enumerate(counts) for _ in range(count)]
    table = by_owner(name_scores(mllm, inputs, answers, owners), counts)
    return [Response(_rounded(row[:count])) for row, count in zip(table, counts, strict=True)]


def _by_letters(mllm: Mllm, manner: RankingMode, questions: Sequence[RankingRequest]) -> list[Response]:
    counts = [len(question.names) for question in questions]
    if max(counts) > len(LETTERS):
        raise UserError(
            f"{max(counts)} candidates, but mode letters has {len(LETTERS)} letters; rank fewer, or by likelihood"
        )
    prompts = [letters_prompt(question.shown_names) for question in questions]
    letters = mllm.letter_ids(max(counts))
    table = letter_scores(mllm, _inputs(mllm, questions, prompts), letters, counts)
    answers = []
    for row, question in zip(table, questions, strict=True):
        by_place = dict(zip(question.shown, _rounded(row), strict=False))
        answers.append(Response(tuple(by_place[place] for place in range(len(question.names)))))
    return answers


def _by_constrained(mllm: Mllm, manner: RankingMode, questions: Sequence[RankingRequest]) -> list[Response]:
    prompts = [list_prompt(question.shown_names, manner.structured) for question in questions]
    trees = [
        Permutations(lambda names, prompt=prompt: mllm.answer_ids(prompt, list_answer(names)), question.shown_names)
        for prompt, question in zip(prompts, questions, strict=True)
    ]
    inputs = _inputs(mllm, questions, prompts)
    start, end = inputs["input_ids"].shape[1], mllm.turn_end_id

    def allowed(row: int, ids: Tensor) -> list[int]:
        return trees[row].allowed(ids[start:].tolist()) or [end]

    longest = max(len(tokens) for tree in trees for tokens in tree.open.values())
    return [Response(reply=text) for text in decode_texts(mllm, generate(mllm, inputs, 2 * longest, allowed))]


def _by_list(mllm: Mllm, manner: RankingMode, questions: Sequence[RankingRequest]) -> list[Response]:
    prompts = [list_prompt(question.shown_names, manner.structured) for question in questions]
    # A reply may be as long as its own list and a little more, whatever else is in the batch.
    budgets = [
        manner.reply_tokens or len(mllm.answer_ids(prompt, list_answer(question.shown_names))) + 8
        for prompt, question in zip(prompts, questions, strict=True)
    ]
    replies = generate(mllm, _inputs(mllm, questions, prompts), max(budgets))
    own = [reply[:budget] for reply, budget in zip(replies, budgets, strict=True)]
    return [Response(reply=text) for text in decode_texts(mllm, own)]


def _by_name(mllm: Mllm, manner: RankingMode, questions: Sequence[RankingRequest]) -> list[Response]:
    inputs = _inputs(mllm, questions, [manner.prompt] * len(questions))
    return [Response(reply=text) for text in decode_texts(mllm, generate(mllm, inputs, manner.reply_tokens))]


_ASKED = {
    "likelihood": _by_likelihood,
    "letters": _by_letters,
    "constrained": _by_constrained,
    "generate": _by_list,
    "name": _by_name,
}
