"""The jobs of the untuned and the tuned ranker, and the rankings read from their responses."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.core.records import Candidate
from eval.ranking import rank
from eval.ranking.batches import InferenceJob, RequestTable
from eval.ranking.rank import read_ranking, run_rankers, shuffle_request
from eval.ranking.request import RankingMode, RankingRequest, Response


@pytest.fixture
def run_jobs(monkeypatch: pytest.MonkeyPatch) -> list[InferenceJob]:
    """Collects the jobs that would be run."""
    jobs: list[InferenceJob] = []
    monkeypatch.setattr(rank, "answer_all", lambda new_jobs, *_: jobs.extend(new_jobs) or {})
    return jobs


def test_both_rankers_run_on_the_distinct_requests_and_the_format_hint_is_for_the_untuned_alone(
    tiny, run_jobs, tmp_path: Path
):
    recipe = tiny(tmp_path, "ranker.mode=generate", "eval.format_hint=true", "eval.batch_size=3")
    requests = [RankingRequest(key, "image.png", ("a", "b")) for key in "xyz"]
    extra = InferenceJob("alone", True, RankingMode("likelihood"), RequestTable([requests[:1]]), 4)
    run_rankers(recipe, [requests[:2], requests[1:]], tmp_path, tmp_path, extra_jobs=[extra])
    untuned, tuned, last = run_jobs
    table = untuned.requests
    assert table.read(range(len(table))) == requests
    assert untuned == InferenceJob("rar_untuned", False, RankingMode("generate", True), table, 3)
    assert tuned == InferenceJob("rar", True, RankingMode("generate", False), table, 3)
    assert last is extra


def test_only_the_given_methods_run(tiny, run_jobs, tmp_path: Path):
    run_rankers(tiny(tmp_path), [], tmp_path, tmp_path, {"choose": True})
    assert [(job.name, job.tuned) for job in run_jobs] == [("choose", True)]


@pytest.mark.parametrize(("mode", "count"), [("likelihood", 1), ("letters", 3)])
def test_a_request_is_shuffled_in_the_modes_that_show_candidates(tiny, tmp_path: Path, mode, count):
    recipe = tiny(tmp_path, f"ranker.mode={mode}", "eval.permutations=3")
    assert len(shuffle_request(recipe, RankingRequest("key", "image.png", ("a", "b")))) == count


def test_the_responses_of_all_shuffles_are_aggregated(tiny, tmp_path: Path):
    recipe = tiny(tmp_path, "ranker.mode=letters", "eval.permutations=3", "eval.aggregate=borda")
    requests = shuffle_request(recipe, RankingRequest("key", "image.png", ("a", "b")))
    scores = [(0.0, 1.0), (0.0, 1.0), (1.0, 0.0)]
    responses = {request.id: Response(row) for request, row in zip(requests, scores, strict=True)}
    candidates = [Candidate(0, "a", 0.9), Candidate(1, "b", 0.8)]
    assert read_ranking(recipe, candidates, requests, responses).order == (1, 0)
