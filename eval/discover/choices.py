"""Asks rankers to rank candidates of many images under several memories, and keeps the answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.records import Candidate, Ranking, Sample
from data_prep.settings import Recipe
from eval.ranking.inference import InferenceJob, answer_all
from eval.ranking.parsing import to_one_ranking
from eval.ranking.request import RankingMode, RankingRequest, shuffled_requests


@dataclass(frozen=True)
class CandidateSet:
    """Images and what a memory proposes for each.

    Attributes:
        samples: The images.
        candidates: Of each, in retriever order.
    """

    samples: Sequence[Sample]
    candidates: Sequence[tuple[Candidate, ...]]


def _asked(recipe: Recipe, tasks: Sequence[CandidateSet]) -> list[list[list[RankingRequest]]]:
    """The question of each task and image, in each order shown. Images go by content, wherever they lie."""
    # A likelihood depends on neither order nor company: one question serves all tasks.
    free = recipe.ranker.mode == "likelihood"
    together: dict[str, set[str]] = defaultdict(set)
    for task in tasks:
        for sample, row in zip(task.samples, task.candidates, strict=True):
            together[sample.digest] |= {candidate.name for candidate in row}
    asked = []
    for task in tasks:
        asked.append([])
        for sample, row in zip(task.samples, task.candidates, strict=True):
            names = together[sample.digest] if free else {candidate.name for candidate in row}
            question = RankingRequest(sample.digest, sample.path, tuple(sorted(names)), contents=(sample.digest,))
            asked[-1].append(shuffled_requests(question, 1 if free else recipe.eval.permutations))
    return asked


def rank_tasks(
    recipe: Recipe, tasks: Sequence[CandidateSet], methods: dict[str, bool], adapter: Path, out: Path
) -> dict[str, list[list[Ranking]]]:
    """Ranks the candidates of every image of every task.

    Args:
        recipe: Model, mode and what ``eval`` says of asking.
        tasks: What to rank.
        methods: By name, whether it is the tuned model; the base model's first.
        adapter: The tuned model's.
        out: Where answers go.

    Returns:
        dict: Rankings by method, task and image.

    Raises:
        UserError: A model, an adapter or an image can't be had; answers so far are kept.
    """
    args, mode = recipe.eval, recipe.ranker.mode
    asked = _asked(recipe, tasks)
    distinct = list({q.id: q for own in asked for several in own for q in several}.values())
    jobs = [
        InferenceJob(
            name, tuned, RankingMode(mode, args.format_hint and not tuned, args.reply_tokens), distinct, args.batch_size
        )
        for name, tuned in methods.items()
    ]
    answers = answer_all(jobs, recipe.ranker, adapter, recipe.trainer, out)

    def ranking(method: str, row: tuple[Candidate, ...], several: list[RankingRequest]) -> Ranking:
        own = [answers[method][question.id] for question in several]
        return to_one_ranking(mode, [candidate.name for candidate in row], several, own, args.aggregate)

    return {
        method: [
            [ranking(method, row, several) for row, several in zip(task.candidates, own, strict=True)]
            for task, own in zip(tasks, asked, strict=True)
        ]
        for method in methods
    }
