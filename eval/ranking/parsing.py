"""From answers to rankings: always a permutation of the candidates, ties in a defined order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from data_prep.core.records import Ranking
from data_prep.prompting.replies import read_list
from data_prep.settings import SCORED
from eval.ranking.aggregation import aggregate_rankings
from eval.ranking.request import RankingRequest, Response


def to_ranking(mode: str, names: Sequence[str], question: RankingRequest, answer: Response) -> Ranking:
    """Turns an answer into a ranking.

    Args:
        mode: The mode that the answer came from.
        names: The candidates in retriever order; each is among the question's names. A name may stand
            twice, for two classes: they have the same score.
        question: What was asked.
        answer: With scores in the question's order, or a reply.

    Returns:
        Ranking: Ties keep the retriever's order.
    """
    if mode not in SCORED:
        return read_list(answer.reply, names, question.shown_names)
    by_name = dict(zip(question.names, answer.scores, strict=True))
    scores = [by_name[name] for name in names]
    order = sorted(range(len(names)), key=lambda place: -scores[place])
    probabilities = torch.tensor(scores, dtype=torch.float64).softmax(0)
    return Ranking(tuple(order), tuple(probabilities.tolist()))


def to_one_ranking(
    mode: str, names: Sequence[str], questions: Sequence[RankingRequest], answers: Sequence[Response], how: str
) -> Ranking:
    """Turns the answers to one question in several orders into a ranking.

    Args:
        mode: The mode that the answers came from.
        names: The candidates in retriever order.
        questions: The same question, shuffled.
        answers: Of each.
        how: ``mean``, ``borda`` or ``kemeny``.
    """
    return aggregate_rankings([to_ranking(mode, names, q, a) for q, a in zip(questions, answers, strict=True)], how)
