"""Boxes named by retriever and rankers: candidates by name, rankings, detections, and how often a name is right."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.core.records import Candidate, Ranking
from data_prep.detection.annotations import Annotations
from data_prep.detection.proposals import Proposals
from data_prep.embedding.encoder import Encoder, embed_regions
from data_prep.embedding.regions import Cut, region_key
from data_prep.memory.memories import Memories, name_memory
from data_prep.memory.memory import Memory
from data_prep.settings import Recipe
from eval.detection.detections import make_detections
from eval.detection.score_policies import Ranked
from eval.metrics.accuracy import hits_at, staged_accuracy
from eval.metrics.intervals import bootstrap_interval
from eval.ranking.inference import InferenceJob, answer_all
from eval.ranking.parsing import to_one_ranking
from eval.ranking.request import RankingMode, RankingRequest, shuffled_requests

log = logging.getLogger(__name__)

ALONE = "clip_zero_shot"
"""The retriever without a ranker."""

_BLOCK = 1024  # regions that are compared with all names at once


def class_probabilities(
    memory: Memory, xq: np.ndarray, candidates: list[tuple[Candidate, ...]], temperature: float
) -> list[tuple[float, ...]]:
    """Each candidate's probability among all classes: a softmax over similarities.

    Args:
        memory: Of names; a class's similarity is its nearest name's.
        xq: Unit queries of shape ``[n, d]``.
        candidates: Of each query, with similarities.
        temperature: Divides similarities.
    """
    order = np.argsort(memory.labels, kind="stable")
    _, starts = np.unique(memory.labels[order], return_index=True)
    names = memory.vectors(memory.ids[order])
    found = []
    for start in range(0, len(xq), _BLOCK):
        similarities = np.maximum.reduceat(xq[start : start + _BLOCK] @ names.T, starts, axis=1) / temperature
        highest = similarities.max(1)
        totals = highest + np.log(np.exp(similarities - highest[:, None]).sum(1))
        for row, total in zip(candidates[start : start + _BLOCK], totals.tolist(), strict=True):
            found.append(tuple(float(np.exp(min(c.score / temperature - total, 0.0))) for c in row))
    return found


class NamedBoxes:
    """Boxes and what retriever and rankers name them.

    Args:
        recipe: Settings.
        annotations: The boxes' file.
        proposals: The boxes.
    """

    def __init__(self, recipe: Recipe, annotations: Annotations, proposals: Proposals):
        self.recipe, self.annotations, self.proposals = recipe, annotations, proposals
        self.truths = [proposal.region.label for proposal in proposals.found]
        self.rankings: dict[str, list[Ranking]] = {}

    def retrieve(self, encoder: Encoder, templates: list[str]) -> None:
        """Finds each region's candidates in a memory of all class names, and their probabilities.

        Args:
            encoder: Of regions and names.
            templates: Prompts around a class name.
        """
        recipe, named = self.recipe, self.annotations
        args, cache = (
            replace(recipe.retriever, templates=templates, candidate_unit="class", aggregate="max"),
            Path(recipe.cache),
        )
        synonyms = named.synonyms if recipe.detection.synonyms else None
        labels = range(len(named.names))
        memory = name_memory(encoder, labels, named.names, args, cache, synonyms, named.texts)
        regions = [proposal.region for proposal in self.proposals.found]
        xq = embed_regions(encoder, regions, args, cache)
        self.candidates = Memories(None, memory).candidates("name", xq, recipe.eval.k, args, named.names)
        self.probabilities = class_probabilities(memory, xq, self.candidates, recipe.detection.temperature)
        self.rankings[ALONE] = [Ranking(tuple(range(len(own)))) for own in self.candidates]

    def rank(self, adapter: Path, out: Path) -> None:
        """Asks the untuned and the tuned ranker what is not answered yet.

        Args:
            adapter: The tuned model's.
            out: Where answers go.
        """
        recipe, args, mode = self.recipe, self.recipe.eval, self.recipe.ranker.mode
        asked = []
        for proposal, own in zip(self.proposals.found, self.candidates, strict=True):
            cut = Cut(proposal.region, recipe.retriever.regions)
            names = tuple(sorted(candidate.name for candidate in own))
            question = RankingRequest(region_key(cut.region, cut.args), cut, names)
            asked.append(shuffled_requests(question, 1 if mode == "likelihood" else args.permutations))
        distinct = list({q.id: q for several in asked for q in several}.values())
        manners = {
            "rar_untuned": RankingMode(mode, args.format_hint, args.reply_tokens),
            "rar": RankingMode(mode, False, args.reply_tokens),
        }
        jobs = [
            InferenceJob(name, name == "rar", manner, distinct, args.batch_size) for name, manner in manners.items()
        ]
        log.info("ranking %d boxes by %s, untuned and tuned", len(asked), mode)
        found = answer_all(jobs, recipe.ranker, adapter, recipe.trainer, out)
        for method, answers in found.items():
            self.rankings[method] = [
                to_one_ranking(mode, [c.name for c in own], several, [answers[q.id] for q in several], args.aggregate)
                for own, several in zip(self.candidates, asked, strict=True)
            ]

    def detections(self) -> dict[str, list[dict]]:
        """Detections by method; the retriever's are scored by its probabilities, whatever the policy."""
        args, categories = self.recipe.detection, self.annotations.categories
        found = {}
        for method, own in self.rankings.items():
            ranked = [
                Ranked(proposal.score, probabilities, ranking)
                for proposal, probabilities, ranking in zip(self.proposals.found, self.probabilities, own, strict=True)
            ]
            policy = "retriever" if method == ALONE else args.policy
            found[method] = make_detections(self.proposals.found, self.candidates, ranked, policy, categories, args)
        return found

    def named_right(self, method: str) -> dict:
        """Figures of annotated boxes: how often the first name is right, and what the ranker makes of the candidates.

        Returns:
            dict: Shares, 0 to 1, and counts; see ``eval.metrics.accuracy.staged``.
        """
        labels = [[candidate.label for candidate in own] for own in self.candidates]
        found = hits_at(labels, self.truths, self.recipe.eval.k)
        metrics = {"top1": float(self.hits(method).mean()), "recall_at_k": float(found.mean())}
        if method == ALONE:
            return metrics
        outcomes = Counter(ranking.outcome for ranking in self.rankings[method])
        return metrics | staged_accuracy(hits_at(labels, self.truths, 1), self.hits(method), found, outcomes)

    def hits(self, method: str) -> np.ndarray:
        """Whether the first name of each box is right, 0 or 1, shape ``[n]``."""
        ranked = [
            [own[place].label for place in ranking.order]
            for own, ranking in zip(self.candidates, self.rankings[method], strict=True)
        ]
        return hits_at(ranked, self.truths, 1).astype(float)

    def gains(self) -> list[dict]:
        """What the tuned ranker gains in top-1 on annotated boxes, with 95 % intervals over classes."""
        classes, tuned = np.array(self.truths), self.hits("rar")
        found = []
        for reference in (ALONE, "rar_untuned"):
            difference = tuned - self.hits(reference)
            mean, low, high = bootstrap_interval(difference, classes, self.recipe.eval.bootstrap)
            found.append({"reference": reference, "mean": mean, "low": low, "high": high})
        return found
