"""Turns responses into rankings: always a permutation of the candidates, with ties in a defined order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from data_prep.core.records import Ranking
from data_prep.prompting.replies import read_list
from data_prep.settings import SCORED
from eval.ranking.aggregation import aggregate_rankings
from eval.ranking.request import RankingRequest, Response


def to_ranking(mode: str, names: Sequence[str], request: RankingRequest, response: Response) -> Ranking:
    """Turns a response into a ranking.

    Args:
        mode: The mode that the response came from.
        names: The candidates in retriever order; each is among the request's names. A name may occur twice, for two
            classes: they have the same score.
        request: The request.
        response: Scores in the order of the request's names, or a reply.

    Returns:
        Ranking: Ties keep the retriever's order.
    """
    if mode not in SCORED:
        return read_list(response.reply, names, request.shown_names)
    by_name = dict(zip(request.names, response.scores, strict=True))
    scores = [by_name[name] for name in names]
    order = sorted(range(len(names)), key=lambda index: -scores[index])
    probabilities = torch.tensor(scores, dtype=torch.float64).softmax(0)
    return Ranking(tuple(order), tuple(probabilities.tolist()))


def aggregate_responses(
    mode: str, names: Sequence[str], requests: Sequence[RankingRequest], responses: Sequence[Response], method: str
) -> Ranking:
    """Aggregates the responses to one request, shown in several orders, into a ranking.

    Args:
        mode: The mode that the responses came from.
        names: The candidates in retriever order.
        requests: The same request in several orders.
        responses: One per request.
        method: ``mean``, ``borda`` or ``kemeny``.
    """
    rankings = [to_ranking(mode, names, *pair) for pair in zip(requests, responses, strict=True)]
    return aggregate_rankings(rankings, method)
