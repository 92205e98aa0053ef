"""Ranks candidates of many images under several memories, and keeps the replies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch.utils.data import ConcatDataset

from data_prep.core.records import Candidate, Ranking, Sample
from data_prep.settings import POINTWISE, Recipe
from eval.ranking.batches import LazyGroups
from eval.ranking.rank import read_ranking, run_rankers, shuffle_request
from eval.ranking.request import RankingRequest


@dataclass(frozen=True)
class CandidateSet:
    """Images with the candidates that one memory proposes for each.

    Attributes:
        samples: The images.
        candidates: Of each image, in retriever order.
    """

    samples: Sequence[Sample]
    candidates: Sequence[tuple[Candidate, ...]]


def _build_requests(
    recipe: Recipe, samples: Sequence[Sample], names: Sequence[set[str]], image: int
) -> list[RankingRequest]:
    """Builds an image's requests in each order shown. Images are identified by content, not by path."""
    sample = samples[image]
    request = RankingRequest(sample.digest, sample.path, tuple(sorted(names[image])), contents=(sample.digest,))
    return shuffle_request(recipe, request)


def _request_groups(recipe: Recipe, candidate_sets: Sequence[CandidateSet]) -> list[LazyGroups]:
    """Returns the requests of each candidate set."""
    # Pointwise scores depend neither on the order nor on the other names: one request serves all candidate sets.
    shared = recipe.ranker.mode in POINTWISE
    names_of: dict[str, set[str]] = defaultdict(set)
    for candidate_set in candidate_sets:
        for sample, row in zip(candidate_set.samples, candidate_set.candidates, strict=True):
            names_of[sample.digest] |= {candidate.name for candidate in row}
    groups = []
    for candidate_set in candidate_sets:
        samples, rows = candidate_set.samples, candidate_set.candidates
        own_names = [{candidate.name for candidate in row} for row in rows]
        names = [names_of[sample.digest] for sample in samples] if shared else own_names
        groups.append(LazyGroups(partial(_build_requests, recipe, samples, names), len(samples)))
    return groups


def rank_candidate_sets(
    recipe: Recipe, candidate_sets: Sequence[CandidateSet], methods: dict[str, bool], adapter: Path, out: Path
) -> dict[str, list[list[Ranking]]]:
    """Ranks the candidates of every image of every candidate set.

    Args:
        recipe: Model, mode and ``eval``'s settings of the ranking.
        candidate_sets: What to rank.
        methods: By name, whether it is the tuned model; the base model's first.
        adapter: The tuned model's.
        out: Folder of the replies.

    Returns:
        dict: Rankings by method, candidate set and image.

    Raises:
        UserError: A model, an adapter or an image can't be read; replies so far are kept.
    """
    requests = _request_groups(recipe, candidate_sets)
    responses = run_rankers(recipe, ConcatDataset(requests), adapter, out, methods)
    return {
        method: [
            [
                read_ranking(recipe, row, group, responses[method])
                for row, group in zip(candidate_set.candidates, of_set, strict=True)
            ]
            for candidate_set, of_set in zip(candidate_sets, requests, strict=True)
        ]
        for method in methods
    }
