"""One image under several memories: ranked among its own candidates in each, and asked no oftener than needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.core.files import file_hash
from data_prep.core.records import Candidate, Sample
from data_prep.settings.loading import load_saved_recipe
from eval.discover.choices import CandidateSet, rank_tasks


def tasks_of(many) -> list[CandidateSet]:
    """Four images under two memories: names of each question, and of the next one."""
    samples = [Sample(q.key, q.image, 0, file_hash(Path(q.image))) for q in many[:4]]
    rows = [[tuple(Candidate(n, name, -n) for n, name in enumerate(q.names)) for q in own] for own in (many, many[1:])]
    return [CandidateSet(samples, own[:4]) for own in rows]


@pytest.mark.parametrize(("mode", "asked"), [("likelihood", 4), ("letters", 2 * 4 * 3)])
def test_each_memory_has_its_own_ranking_whatever_else_is_asked(finished, many, tmp_path: Path, mode, asked):
    settings = [f"ranker.mode={mode}", "eval.permutations=3"]
    recipe, adapter = load_saved_recipe(finished / "recipe.yaml", settings), finished / "adapter"
    tasks = tasks_of(many)
    both = rank_tasks(recipe, tasks, {"base": False, "tuned": True}, adapter, tmp_path / "both")
    assert list(both) == ["base", "tuned"] and both["base"] != both["tuned"]
    for task, rankings in zip(tasks, both["tuned"], strict=True):
        for row, ranking in zip(task.candidates, rankings, strict=True):
            assert sorted(ranking.order) == list(range(len(row))) and sum(ranking.probabilities) == pytest.approx(1)
    (answers,) = tmp_path.glob("both/answers-*/answers-tuned.jsonl")
    assert len(answers.read_text().splitlines()) == asked
    (alone,) = rank_tasks(recipe, tasks[1:], {"tuned": True}, adapter, tmp_path / "alone")["tuned"]
    assert [ranking.order for ranking in alone] == [ranking.order for ranking in both["tuned"][1]]
