"""Turns responses into rankings: always a permutation of the candidates, with ties in a defined order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.special import softmax

from data_prep.core.records import Candidate, Ranking
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
        Ranking: Ties keep the retriever's order. Scores with a note of missing ones are ``repaired``, or ``unreadable``
        if all are missing.
    """
    if mode not in SCORED:
        return read_list(response.reply, names, request.shown_names)
    by_name = dict(zip(request.names, response.scores, strict=True))
    scores = [by_name[name] for name in names]
    order = sorted(range(len(names)), key=lambda index: -scores[index])
    probabilities = softmax(np.array(scores, float))
    outcome = "ok" if not response.reply else "repaired" if len(set(response.scores)) > 1 else "unreadable"
    return Ranking(tuple(order), tuple(probabilities.tolist()), outcome, response.reply)


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


class ScoreTable:
    """Scores of many images' candidates, which become rankings together.

    Args:
        counts: Number of candidates per image.
    """

    def __init__(self, counts: Iterable[int]):
        self.counts = np.fromiter(counts, int)
        self.scores = np.full((len(self.counts), self.counts.max(initial=1)), -np.inf)

    def fill(self, image: int, scores: Sequence[float]) -> None:
        """Sets the scores of an image's candidates, in retriever order."""
        self.scores[image, : self.counts[image]] = scores

    def rankings(self, k: int | None = None) -> list[Ranking]:
        """Returns the rankings of the first k candidates; None for all. Ties keep the retriever's order."""
        scores = self.scores[:, :k]
        orders = np.argsort(-scores, axis=1, kind="stable").tolist()
        rows = zip(
            orders, softmax(scores, axis=1).tolist(), np.minimum(self.counts, scores.shape[1]).tolist(), strict=True
        )
        # Padding has the lowest score, so it is last.
        return [Ranking(tuple(order[:count]), tuple(row[:count])) for order, row, count in rows]


def read_shared(
    memories: Sequence[Sequence[Sequence[Candidate]]],
    groups: Iterable[Sequence[RankingRequest]],
    responses: Sequence[Mapping[str, Response]],
) -> list[list[ScoreTable]]:
    """Reads the scores of several memories' candidates, where one request about an image has the names of all.

    Args:
        memories: Candidates per image, in retriever order, of each memory.
        groups: Each image's requests; the first is read.
        responses: By request id, of each model.

    Returns:
        list[list[ScoreTable]]: By model and memory.
    """
    tables = [[ScoreTable(map(len, rows)) for rows in memories] for _ in responses]
    for image, (request, *_) in enumerate(groups):
        names = [[candidate.name for candidate in rows[image]] for rows in memories]
        request_id = request.id
        for of_model, by_id in zip(tables, responses, strict=True):
            by_name = dict(zip(request.names, by_id[request_id].scores, strict=True))
            for table, of_memory in zip(of_model, names, strict=True):
                table.fill(image, [by_name[name] for name in of_memory])
    return tables
