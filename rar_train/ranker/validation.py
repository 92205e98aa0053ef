"""Validation of a ranker: lists generated and scored as the evaluation does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from PIL import Image
from torch import distributed

from data_prep.core.records import Ranking, RankingExample
from data_prep.prompting.prompts import list_answer, list_prompt
from data_prep.prompting.replies import read_list
from rar_train.models.decoding import decode_texts, generate
from rar_train.models.inputs import to_device
from rar_train.models.mllm import Mllm

OUTCOMES = ("ok", "repaired", "unreadable")


@torch.no_grad()
def generate_rankings(mllm: Mllm, images: Sequence[Image.Image], examples: Sequence[RankingExample]) -> list[Ranking]:
    """Generates sorted lists greedily, and parses them strictly.

    Args:
        mllm: The ranker.
        images: Images of one batch.
        examples: Their ranking examples, candidates in the order to show.
    """
    names = [[candidate.name for candidate in example.candidates] for example in examples]
    prompts = [list_prompt(row, descriptions=ex.descriptions) for row, ex in zip(names, examples, strict=True)]
    inputs = to_device(mllm.inputs(images, prompts), next(mllm.model.parameters()))
    # Each reply may be 8 tokens longer than its correct answer, whatever else is in the batch.
    budgets = [len(mllm.answer_ids(p, list_answer(row))) + 8 for p, row in zip(prompts, names, strict=True)]
    together = distributed.is_initialized() and distributed.get_world_size() > 1
    replies = generate(mllm, inputs, max(budgets), together=together)
    texts = decode_texts(mllm, [reply[:budget] for reply, budget in zip(replies, budgets, strict=True)])
    return [read_list(text, row) for text, row in zip(texts, names, strict=True)]


def generation_metrics(rankings: Sequence[Ranking], examples: Sequence[RankingExample]) -> dict[str, float]:
    """Computes the accuracy of generated lists whose candidates contain the truth, and the share of each outcome."""
    counts = Counter(ranking.outcome for ranking in rankings)
    hits = sum(ranking.order[0] == example.truth for ranking, example in zip(rankings, examples, strict=True))
    shares = {f"generate_{outcome}": counts[outcome] / len(rankings) for outcome in OUTCOMES}
    return {"generate": hits / len(rankings)} | shares
