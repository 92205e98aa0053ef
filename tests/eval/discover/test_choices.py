"""One image under several memories: ranked among each memory's candidates, with no more requests than needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.core.files import file_hash
from data_prep.core.records import Candidate, Sample
from data_prep.settings.loading import load_saved_recipe
from eval.discover.choices import CandidateSet, rank_candidate_sets


def make_candidate_sets(many) -> list[CandidateSet]:
    """Makes four images under two memories: with the names of their request, and of the next one."""
    samples = [Sample(q.key, q.image, 0, file_hash(Path(q.image))) for q in many[:4]]
    rows = [
        [tuple(Candidate(n, name, -n) for n, name in enumerate(q.names)) for q in requests]
        for requests in (many, many[1:])
    ]
    return [CandidateSet(samples, row[:4]) for row in rows]


@pytest.mark.parametrize(("mode", "requests"), [("likelihood", 4), ("letters", 2 * 4 * 3)])
def test_the_ranking_under_one_memory_does_not_depend_on_the_others(finished, many, tmp_path: Path, mode, requests):
    settings = [f"ranker.mode={mode}", "eval.permutations=3"]
    recipe, adapter = load_saved_recipe(finished / "recipe.yaml", settings), finished / "adapter"
    candidate_sets = make_candidate_sets(many)
    both = rank_candidate_sets(recipe, candidate_sets, {"base": False, "tuned": True}, adapter, tmp_path / "both")
    assert list(both) == ["base", "tuned"] and both["base"] != both["tuned"]
    for candidate_set, rankings in zip(candidate_sets, both["tuned"], strict=True):
        for row, ranking in zip(candidate_set.candidates, rankings, strict=True):
            assert sorted(ranking.order) == list(range(len(row))) and sum(ranking.probabilities) == pytest.approx(1)
    (answers,) = tmp_path.glob("both/answers-*/answers-tuned.jsonl")
    assert len(answers.read_text().splitlines()) == requests
    (single,) = rank_candidate_sets(recipe, candidate_sets[1:], {"tuned": True}, adapter, tmp_path / "single")["tuned"]
    assert [ranking.order for ranking in single] == [ranking.order for ranking in both["tuned"][1]]
