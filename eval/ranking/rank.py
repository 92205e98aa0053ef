"""Ranks with the untuned and the tuned ranker: builds requests and jobs, runs them, and reads the rankings.

Recognition, detection and discovery all rank this way, so their answers have the same key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.core.records import Candidate, Ranking
from data_prep.settings import Recipe
from eval.ranking.batches import InferenceJob, RequestTable
from eval.ranking.inference import answer_all
from eval.ranking.parsing import aggregate_responses
from eval.ranking.request import RankingMode, RankingRequest, Response, shuffled_requests
from eval.ranking.server_jobs import answer_all_by_server

log = logging.getLogger(__name__)

METHODS = {"rar_untuned": False, "rar": True}
"""The ranker's methods, and whether the model is the tuned one; the base model's come first."""


def shuffle_request(recipe: Recipe, request: RankingRequest) -> list[RankingRequest]:
    """Returns a request in ``eval.permutations`` orders, or in one for ``likelihood``, which shows no candidates."""
    return shuffled_requests(request, 1 if recipe.ranker.mode == "likelihood" else recipe.eval.fixed_permutations)


def run_rankers(
    recipe: Recipe,
    groups: Sequence[Sequence[RankingRequest]],
    adapter: Path,
    out: Path,
    methods: Mapping[str, bool] = METHODS,
    extra_jobs: Iterable[InferenceJob] = (),
) -> dict[str, dict[str, Response]]:
    """Runs every method's model on the same requests, computing only the answers that are not on disk.

    Args:
        recipe: Model, ranking mode, and the settings of ``eval`` and ``trainer``.
        groups: Requests about an image under one memory, in all orders, best as ``LazyGroups``; those of one image are
            answered in the same batch, whatever the memory, and equal ones once.
        adapter: The tuned model's adapter.
        out: Folder of the answers.
        methods: Whether each method's model is the tuned one, by the method's name; the base model's come first.
        extra_jobs: Jobs of the tuned model to run after these.

    Returns:
        dict: Responses by the name of the method or extra job, and by request id.

    Raises:
        UserError: A model, an adapter or an image can't be loaded; answers so far are kept.
    """
    requests = RequestTable(groups)
    jobs = [
        InferenceJob(name, tuned, RankingMode.from_recipe(recipe, tuned), requests, recipe.eval.batch_size)
        for name, tuned in methods.items()
    ]
    jobs += extra_jobs
    for job in jobs:
        images, count = job.requests.images, len(job.requests)
        log.info("%s: ranking by %s, %d requests about %d images", job.name, job.mode.mode, count, images)
    return run_jobs(recipe, jobs, adapter, out)


def run_jobs(recipe: Recipe, jobs: Sequence[InferenceJob], adapter: Path, out: Path) -> dict[str, dict[str, Response]]:
    """Runs jobs on the local model or on the recipe's server; see ``answer_all`` and ``answer_all_by_server``."""
    answer = answer_all_by_server if recipe.ranker.backend == "openai" else answer_all
    return answer(jobs, recipe.ranker, adapter, recipe.trainer, out)


def read_ranking(
    recipe: Recipe,
    candidates: Sequence[Candidate],
    requests: Sequence[RankingRequest],
    responses: Mapping[str, Response],
) -> Ranking:
    """Aggregates the responses to one image's requests into a ranking of its candidates.

    Args:
        recipe: Ranking mode and ``eval.aggregate``.
        candidates: The candidates in retriever order.
        requests: The image's requests.
        responses: One method's, by request id.
    """
    names = [candidate.name for candidate in candidates]
    own_responses = [responses[request.id] for request in requests]
    return aggregate_responses(recipe.ranker.mode, names, requests, own_responses, recipe.eval.aggregate)
