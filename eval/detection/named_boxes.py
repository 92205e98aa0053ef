"""Boxes classified by retriever and rankers: candidates, rankings, detections, and accuracy."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import nan
from pathlib import Path

import numpy as np

from data_prep.core.records import Candidate, Ranking
from data_prep.detection.annotations import Annotations
from data_prep.detection.proposals import Proposal, Proposals
from data_prep.embedding.encoder import Encoder, embed_regions
from data_prep.embedding.regions import LazyRegion, region_key
from data_prep.memory.memories import Memories, name_memory
from data_prep.memory.memory import Memory
from data_prep.settings import Recipe
from eval.calibration.choice import Choice
from eval.calibration.fusion import mark_new, stack_similarities
from eval.detection.detections import make_detections
from eval.detection.score_policies import Ranked
from eval.metrics.accuracy import hits_at, staged_accuracy
from eval.metrics.intervals import bootstrap_interval
from eval.ranking.batches import LazyGroups
from eval.ranking.rank import read_ranking, run_rankers, shuffle_request
from eval.ranking.request import RankingRequest

log = logging.getLogger(__name__)

RETRIEVER = "clip_zero_shot"
"""Method of the retriever without a ranker."""

FUSED = "rar_fused"
"""Method of the tuned ranker fused with the retriever."""

_BLOCK = 1024  # regions per matrix product with all names


def class_probabilities(
    memory: Memory, xq: np.ndarray, candidates: list[tuple[Candidate, ...]], temperature: float
) -> list[tuple[float, ...]]:
    """Computes each candidate's probability among all classes: a softmax over similarities.

    Args:
        memory: Of names; a class's similarity is its nearest name's.
        xq: Unit queries of shape ``[n, d]``.
        candidates: Of each query, with similarities.
        temperature: Divides the similarities.
    """
    order = np.argsort(memory.labels, kind="stable")
    _, starts = np.unique(memory.labels[order], return_index=True)
    names = memory.vectors(memory.ids[order])
    probabilities = []
    for start in range(0, len(xq), _BLOCK):
        similarities = np.maximum.reduceat(xq[start : start + _BLOCK] @ names.T, starts, axis=1) / temperature
        highest = similarities.max(1)
        totals = highest + np.log(np.exp(similarities - highest[:, None]).sum(1))
        for row, total in zip(candidates[start : start + _BLOCK], totals.tolist(), strict=True):
            probabilities.append(tuple(float(np.exp(min(c.score / temperature - total, 0.0))) for c in row))
    return probabilities


def _build_requests(
    recipe: Recipe, proposals: Sequence[Proposal], candidates: Sequence[tuple[Candidate, ...]], box: int
) -> list[RankingRequest]:
    """Builds a box's requests, in each order shown."""
    crop = LazyRegion(proposals[box].region, recipe.retriever.regions)
    names = tuple(sorted(candidate.name for candidate in candidates[box]))
    return shuffle_request(recipe, RankingRequest(region_key(crop.region, crop.args), crop, names))


class ClassifiedBoxes:
    """Boxes with their classes by the retriever and the rankers.

    Args:
        recipe: Settings.
        annotations: The annotation file.
        proposals: The boxes.
        choice: Number of candidates and fusion.
    """

    def __init__(self, recipe: Recipe, annotations: Annotations, proposals: Proposals, choice: Choice):
        self.recipe, self.annotations, self.proposals, self.choice = recipe, annotations, proposals, choice
        self.truths = [proposal.region.label for proposal in proposals.found]
        self.rankings: dict[str, list[Ranking]] = {}

    def retrieve(self, encoder: Encoder, templates: list[str]) -> None:
        """Retrieves each region's candidates from a memory of all class names, with their probabilities.

        Args:
            encoder: Of regions and names.
            templates: Prompts around a class name.
        """
        recipe, annotations, cache = self.recipe, self.annotations, Path(self.recipe.cache)
        args = replace(recipe.retriever, templates=templates, candidate_unit="class", aggregate="max")
        synonyms = annotations.synonyms if recipe.detection.synonyms else None
        names = annotations.names
        memory = name_memory(encoder, range(len(names)), names, args, cache, synonyms, annotations.texts)
        regions = [proposal.region for proposal in self.proposals.found]
        xq = embed_regions(encoder, regions, args, cache)
        self.candidates = Memories(None, memory).candidates("name", xq, self.choice.k, args, names)
        self.probabilities = class_probabilities(memory, xq, self.candidates, recipe.detection.temperature)
        self.rankings[RETRIEVER] = [Ranking(tuple(range(len(row)))) for row in self.candidates]

    def rank(self, adapter: Path, out: Path) -> None:
        """Runs the untuned and the tuned ranker where replies are missing.

        Args:
            adapter: The tuned model's.
            out: Folder of the replies.
        """
        recipe = self.recipe
        build = partial(_build_requests, recipe, self.proposals.found, self.candidates)
        groups = LazyGroups(build, len(self.candidates))
        log.info("ranking %d boxes by %s, untuned and tuned", len(groups), recipe.ranker.mode)
        for method, responses in run_rankers(recipe, groups, adapter, out).items():
            self.rankings[method] = [
                read_ranking(recipe, row, group, responses) for row, group in zip(self.candidates, groups, strict=True)
            ]
        if self.choice.fusion:
            self.rankings[FUSED] = self.choice.fusion.fuse(self.rankings["rar"], self._similarities())

    def _similarities(self) -> np.ndarray:
        """Returns the candidates' similarities to names, as ``Fusion.retriever_logits`` takes them, without images."""
        scores = [[(nan, candidate.score) for candidate in row] for row in self.candidates]
        return mark_new(stack_similarities(scores), self.candidates, self.choice.tuned_classes)

    def detections(self) -> dict[str, list[dict]]:
        """Makes detections by method; the retriever's are scored by its probabilities, whatever the policy."""
        args, categories = self.recipe.detection, self.annotations.categories
        detections = {}
        for method, rankings in self.rankings.items():
            ranked = [
                Ranked(proposal.score, probabilities, ranking)
                for proposal, probabilities, ranking in zip(
                    self.proposals.found, self.probabilities, rankings, strict=True
                )
            ]
            policy = "retriever" if method == RETRIEVER else args.policy
            detections[method] = make_detections(
                self.proposals.found, self.candidates, ranked, policy, categories, args
            )
        return detections

    def accuracy(self, method: str) -> dict:
        """Computes top-1 and recall@k on annotated boxes, and compares the ranker with the retriever.

        Returns:
            dict: Shares, 0 to 1, and counts; see ``eval.metrics.accuracy.staged_accuracy``.
        """
        labels = [[candidate.label for candidate in row] for row in self.candidates]
        retrieved = hits_at(labels, self.truths, self.choice.k)
        metrics = {"top1": float(self.hits(method).mean()), "recall_at_k": float(retrieved.mean())}
        if method == RETRIEVER:
            return metrics
        outcomes = Counter(ranking.outcome for ranking in self.rankings[method])
        return metrics | staged_accuracy(hits_at(labels, self.truths, 1), self.hits(method), retrieved, outcomes)

    def hits(self, method: str) -> np.ndarray:
        """Returns whether the top class of each box is right, 0 or 1, shape ``[n]``."""
        ranked = [
            [row[position].label for position in ranking.order]
            for row, ranking in zip(self.candidates, self.rankings[method], strict=True)
        ]
        return hits_at(ranked, self.truths, 1).astype(float)

    def gains(self) -> list[dict]:
        """Computes the tuned ranker's gains in top-1 on annotated boxes, with 95 % intervals over classes."""
        classes, tuned = np.array(self.truths), self.hits("rar")
        gains = []
        for reference in (RETRIEVER, "rar_untuned"):
            difference = tuned - self.hits(reference)
            mean, low, high = bootstrap_interval(difference, classes, self.recipe.eval.bootstrap)
            gains.append({"reference": reference, "mean": mean, "low": low, "high": high})
        return gains
