"""Ranks candidates by the MLLM in one of three modes, many images at a time.

``likelihood``: log-likelihood of each candidate's name; the prompt holds no candidates, so neither
their order nor their company matters and a score serves every memory that proposes the class.
``letters``: one forward pass over lettered candidates. ``generate``: the paper's, a written list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from data_prep.images import open_image
from data_prep.prompts import list_answer, list_prompt
from data_prep.records import Ranking
from data_prep.replies import read_list
from rar_train.backend import Mllm
from rar_train.collate import letter_inputs, naming_inputs, to_device
from rar_train.scoring import by_owner, letter_scores, name_scores


@dataclass(frozen=True)
class Question:
    """An image and the classes to rank for it.

    Attributes:
        key: The sample's key.
        path: The image file.
        names: Class names.
    """

    key: str
    path: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What the model said about the names, in the question's order.

    Attributes:
        scores: Log-likelihoods or letter logits; empty in ``generate``.
        reply: The text in ``generate``.
    """

    scores: tuple[float, ...] = ()
    reply: str = ""


def shown_order(question: Question) -> list[int]:
    """A fixed order of the names that carries nothing of the retriever's: by hash of key and name."""

    def rank(place: int) -> bytes:
        return hashlib.sha256(f"{question.key}/{question.names[place]}".encode()).digest()

    return sorted(range(len(question.names)), key=rank)


@torch.inference_mode()
def ask(mllm: Mllm, mode: str, questions: Sequence[Question]) -> list[Answer]:
    """Asks the model a batch of questions.

    Args:
        mllm: The ranker.
        mode: ``likelihood``, ``letters`` or ``generate``.
        questions: One batch.
    """
    images = [open_image(question.path) for question in questions]
    asked = {"likelihood": _by_likelihood, "letters": _by_letters, "generate": _by_list}[mode]
    return asked(mllm, images, questions)


def _by_likelihood(mllm: Mllm, images: list[Image.Image], questions: Sequence[Question]) -> list[Answer]:
    names = [question.names for question in questions]
    inputs, answers, owners = naming_inputs(mllm, images, names)
    inputs = to_device(inputs, next(mllm.model.parameters()))
    table = by_owner(name_scores(mllm, inputs, answers, owners), [len(row) for row in names])
    return [Answer(tuple(row[: len(own)].tolist())) for row, own in zip(table, names, strict=True)]


def _by_letters(mllm: Mllm, images: list[Image.Image], questions: Sequence[Question]) -> list[Answer]:
    orders = [shown_order(question) for question in questions]
    shown = [[q.names[i] for i in order] for q, order in zip(questions, orders, strict=True)]
    inputs, letters = letter_inputs(mllm, images, shown)
    inputs = to_device(inputs, next(mllm.model.parameters()))
    table = letter_scores(mllm, inputs, letters, [len(row) for row in shown])
    answers = []
    for row, order in zip(table.tolist(), orders, strict=True):
        scores = [0.0] * len(order)
        for score, place in zip(row, order, strict=False):
            scores[place] = score
        answers.append(Answer(tuple(scores)))
    return answers


def _by_list(mllm: Mllm, images: list[Image.Image], questions: Sequence[Question]) -> list[Answer]:
    shown = [[q.names[i] for i in shown_order(q)] for q in questions]
    prompts = [list_prompt(names) for names in shown]
    inputs = to_device(mllm.inputs(images, prompts), next(mllm.model.parameters()))
    # A reply may be as long as its own right answer and a little more, whatever else is in the batch.
    budgets = [len(mllm.answer_ids(p, list_answer(n))) + 8 for p, n in zip(prompts, shown, strict=True)]
    tokenizer = mllm.processor.tokenizer
    written = mllm.model.generate(
        **inputs,
        max_new_tokens=max(budgets),
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=mllm.turn_end_id,
    )
    replies = written[:, inputs["input_ids"].shape[1] :]
    own = [reply[:budget] for reply, budget in zip(replies, budgets, strict=True)]
    texts = tokenizer.batch_decode(own, skip_special_tokens=True)
    return [Answer(reply=text.strip()) for text in texts]


def to_ranking(mode: str, names: Sequence[str], answer: Answer) -> Ranking:
    """Turns an answer into a ranking.

    Args:
        mode: The mode that the answer came from.
        names: The candidates in retriever order.
        answer: With scores in that order, or a reply.

    Returns:
        Ranking: Ties keep the retriever's order.
    """
    if mode == "generate":
        return read_list(answer.reply, names)
    scores = torch.tensor(answer.scores, dtype=torch.float64)
    order = sorted(range(len(names)), key=lambda i: -answer.scores[i])
    return Ranking(tuple(order), tuple(scores.softmax(0).tolist()))
