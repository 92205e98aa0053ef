"""Ranks with the untuned and the tuned ranker: builds requests and jobs, runs them, and reads the rankings.

Recognition, detection and discovery all rank this way, so their answers have the same key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock
from data_prep.core.records import Candidate, Ranking
from data_prep.settings import POINTWISE, RankerArgs, Recipe, TrainerArgs
from eval.ranking.answer_key import answers_folder
from eval.ranking.answers import merge_answers, name_path_in_errors
from eval.ranking.batches import Batch, InferenceJob, RequestTable
from eval.ranking.parsing import aggregate_responses
from eval.ranking.request import RankingMode, RankingRequest, Response, shuffled_requests

log = logging.getLogger(__name__)

METHODS = {"rar_untuned": False, "rar": True}
"""The ranker's methods, and whether the model is the tuned one; the base model's come first."""


def shuffle_request(recipe: Recipe, request: RankingRequest) -> list[RankingRequest]:
    """Returns a request in ``eval.permutations`` orders, or in one for a mode that scores each candidate by itself."""
    return shuffled_requests(request, 1 if recipe.ranker.mode in POINTWISE else recipe.eval.fixed_permutations)


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
    for kind, alike in _by_kind(jobs):
        images, count = max(job.requests.images for job in alike), sum(len(job.requests) for job in alike)
        log.info("%s: ranking by %s, %d requests about %d images", kind, alike[0].mode.mode, count, images)
    return run_jobs(recipe, jobs, adapter, out)


def _by_kind(jobs: Sequence[InferenceJob]) -> list[tuple[str, list[InferenceJob]]]:
    """Groups successive jobs for a line of the log: those of a number of candidates each (``speed-5``) are one kind."""
    return [(kind, list(alike)) for kind, alike in groupby(jobs, lambda job: job.name.partition("-")[0])]


def run_jobs(recipe: Recipe, jobs: Sequence[InferenceJob], adapter: Path, out: Path) -> dict[str, dict[str, Response]]:
    """Runs jobs on the local model or on the recipe's server; see ``answer_all`` and ``answer_all_by_server``."""
    if recipe.ranker.backend == "openai":
        from eval.ranking.server_jobs import answer_all_by_server

        return answer_all_by_server(jobs, recipe.ranker, adapter, recipe.trainer, out)
    return answer_all(jobs, recipe.ranker, adapter, recipe.trainer, out)


def answer_all(
    jobs: Sequence[InferenceJob], ranker: RankerArgs, adapter: Path, trainer: TrainerArgs, out: Path
) -> dict[str, dict[str, Response]]:
    """Runs jobs, computing only the answers that are not on disk.

    Args:
        jobs: Those of the base model come first.
        ranker: The base model.
        adapter: The tuned model's adapter.
        trainer: ``accelerator``, ``num_workers``, and ``devices``: the number of processes, where a launcher has not
            started several.
        out: The evaluation's folder; the answers are in ``answers-KEY`` there, a folder for each ``models_key``.

    Returns:
        dict: Responses by job name and request id.

    Raises:
        UserError: A model, an adapter or an image can't be loaded, or answers are damaged or can't be written; answers
            so far are kept.
    """
    folder = answers_folder(out, ranker, adapter)
    with name_path_in_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder):
        answers = {job.name: merge_answers(job, folder) for job in jobs}
        for kind, alike in _by_kind(jobs):
            there, count = (sum(map(len, of_jobs)) for of_jobs in zip(*((answers[j.name], j.requests) for j in alike)))
            if there:
                log.info("%s: %d of %d answers are there", kind, there, count)
        pending = [batch for job in jobs for batch in _pending_batches(job, answers[job.name])]
        if pending:
            from eval.ranking.inference import run_batches  # slow: it loads Lightning and Transformers

            run_batches(pending, ranker, adapter, trainer, folder)
            answers = {job.name: merge_answers(job, folder) for job in jobs}
    lost = sum(len(job.requests) - len(answers[job.name]) for job in jobs)
    if lost:
        raise UserError(f"{folder}: {lost} answers were removed in the meantime; run the command again")
    return answers


def _pending_batches(job: InferenceJob, answers: Mapping[str, Response]) -> list[Batch]:
    """Returns a job's batches that are not answered completely, with the ids of their answered requests."""
    pending = []
    for batch in job.batches() if len(answers) < len(job.requests) else ():
        there = answers.keys() & set(batch.ids)
        if len(there) < len(batch.rows):
            pending.append(replace(batch, answered=frozenset(there)))
    return pending


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
