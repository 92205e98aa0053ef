"""The evaluation of one split: runs the rankers, and turns their responses into rankings, fits and records."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
from torch.utils.data import ConcatDataset

from data_prep.core.records import Ranking, Sample
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset
from data_prep.settings import POINTWISE, Recipe
from eval.calibration.fusion import Fusion
from eval.calibration.open_set import Refusal, fit_refusal, open_set_signals
from eval.metrics.rounding import round_probabilities
from eval.metrics.summary import ALONE, CHOICE
from eval.ranking.batches import InferenceJob, LazyGroups, RequestTable
from eval.ranking.parsing import read_shared, to_ranking
from eval.ranking.rank import METHODS, read_ranking, run_rankers
from eval.ranking.request import RankingMode, RankingRequest, Response, select_descriptions
from eval.recognition.requests import RequestBuilder
from eval.recognition.tasks import EvalTask

log = logging.getLogger(__name__)

_DIGITS = 6  # of the rankers' probabilities, which are rounded before anything is computed from them
_FUSED_DIGITS = 4  # of probabilities that are only shown

RANKER_ONLY_BATCH_SIZE = 4
"""Images per pass where every class's name is scored."""


class Evaluation:
    """One evaluation of a split under one or more memories.

    Args:
        recipe: Settings.
        dataset: With the split's queries and memory pool.
        tasks: Candidates by memory.
        out: Folder of the answers.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, tasks: list[EvalTask], out: Path):
        self.recipe, self.dataset, self.tasks, self.out = recipe, dataset, tasks, out
        self.samples = dataset.parts[recipe.eval.split]
        self.truths = [sample.label for sample in self.samples]
        self.mode = recipe.ranker.mode
        self.ranker_only_mode = self.mode if self.mode in POINTWISE else "likelihood"
        self.requests = self._make_requests()
        self.ranked: dict[str, list[list[Ranking]]] = {}
        self.responses: dict[str, dict[str, Response]] = {}

    def _make_requests(self) -> list[LazyGroups]:
        """Returns the requests of each task: a group per image."""
        count, samples = len(self.samples), self.samples
        texts = self.dataset.first_descriptions
        if self.mode in POINTWISE:
            builder = RequestBuilder(self.recipe, samples, [task.candidates for task in self.tasks], 1, texts)
            return [LazyGroups(builder, count)] * len(self.tasks)
        digests = {sample.path: sample.digest for sample in self.dataset.parts[f"{self.recipe.eval.split}_memory"]}
        return [
            LazyGroups(
                RequestBuilder(
                    self.recipe, samples, [task.candidates], task.permutations, texts, task.examples, digests
                ),
                count,
            )
            for task in self.tasks
        ]

    def _ranker_only_requests(self) -> tuple[list[int], list[RankingRequest]]:
        """Builds the requests of the ranker without a retriever: every class's name, for evenly spaced images.

        Returns:
            tuple[list[int], list[RankingRequest]]: Indices of the images, and their requests.
        """
        args = self.recipe.eval
        labels = self.dataset.labels(f"{args.split}_memory")
        indices = evenly_spaced(len(self.samples), args.ranker_only_images)
        if self.recipe.ranker.backend == "openai":
            log.info("ranker_alone: left out (a server gives no log-likelihoods of all classes' names)")
            return [], []
        if not indices or len(labels) > args.ranker_only_classes:
            log.info(
                "ranker_alone: left out (%d classes, eval.ranker_only_images=%d)", len(labels), args.ranker_only_images
            )
            return [], []
        names = tuple(dict.fromkeys(self.dataset.names[label] for label in labels))
        samples = [self.samples[index] for index in indices]
        described = ()
        if self.ranker_only_mode != "likelihood":
            described = select_descriptions(self.recipe, names, self.dataset.first_descriptions)
        requests = [RankingRequest(s.key, s.path, names, contents=(s.digest,), descriptions=described) for s in samples]
        return indices, requests

    def rank(self, adapter: Path, untuned: bool = True) -> None:
        """Runs the rankers on what is not answered yet, and ranks.

        Args:
            adapter: The tuned model's adapter.
            untuned: Also run the base model; fits on the validation split only use the tuned one.
        """
        methods = METHODS if untuned else {"rar": True}
        self.ranker_only = self._ranker_only_requests()
        mode = RankingMode(self.ranker_only_mode)
        table = RequestTable([[request] for request in self.ranker_only[1]])
        ranker_only = InferenceJob("alone", True, mode, table, RANKER_ONLY_BATCH_SIZE)
        groups = self.requests[0] if self.mode in POINTWISE else ConcatDataset(self.requests)
        self.responses = run_rankers(self.recipe, groups, adapter, self.out, methods, [ranker_only])
        if self.mode in POINTWISE:
            self.ranked = self._read_shared(methods)
            return
        for method in methods:
            responses = self.responses[method]
            rankings = (
                [read_ranking(self.recipe, *pair, responses) for pair in zip(task.candidates, of_task, strict=True)]
                for task, of_task in zip(self.tasks, self.requests, strict=True)
            )
            self.ranked[method] = [round_probabilities(of_task, _DIGITS) for of_task in rankings]

    def _read_shared(self, methods: Collection[str]) -> dict[str, list[list[Ranking]]]:
        """Reads the rankings of all methods and tasks from one request per image, which scores the candidates of all.

        Returns:
            dict: By method; of each task, a ranking per image.
        """
        candidates, responses = [task.candidates for task in self.tasks], [self.responses[m] for m in methods]
        tables = zip(methods, read_shared(candidates, self.requests[0], responses), strict=True)
        return {
            method: [round_probabilities(table.rankings(), _DIGITS) for table in of_method]
            for method, of_method in tables
        }

    def fuse(self, fusions: Mapping[str, Fusion]) -> None:
        """Adds the methods ``rar_fused`` and ``rar_gated`` where fusions were fitted, by kind of memory."""
        if not fusions:
            return
        self.ranked["rar_fused"], self.ranked["rar_gated"] = [], []
        for task, rankings in zip(self.tasks, self.ranked["rar"], strict=True):
            fused = gated = rankings
            if task.kind in fusions and task.task != "unknown":  # nothing is fitted for a memory that lacks classes
                fusion, similarities = fusions[task.kind], task.similarities
                fused = fusion.fuse(rankings, similarities)
                retrieved = fusion.retriever_rankings(similarities)
                rows = zip(fusion.needs_ranker(similarities).tolist(), fused, retrieved, strict=True)
                gated = [ranking if needed else alone for needed, ranking, alone in rows]
            self.ranked["rar_fused"].append(round_probabilities(fused, _FUSED_DIGITS))
            self.ranked["rar_gated"].append(round_probabilities(gated, _FUSED_DIGITS))

    def _open_set_signals(self) -> tuple[list[dict[str, float]], list[bool]]:
        """Returns the signals that may separate unknown from known classes, and which images' classes are known."""
        task_index = next(index for index, task in enumerate(self.tasks) if task.task == "unknown")
        task, groups, rankings = self.tasks[task_index], self.requests[task_index], self.ranked["rar"][task_index]
        responses, signals = self.responses["rar"], []
        for candidates, group, ranking in zip(task.candidates, groups, rankings, strict=True):
            names = {candidate.name for candidate in candidates}
            best = [
                max(s for name, s in zip(r.names, responses[r.id].scores, strict=True) if name in names) for r in group
            ]
            signals.append(open_set_signals(candidates, ranking, float(np.mean(best))))
        return signals, [truth not in task.held_out for truth in self.truths]

    def fit_refusal(self) -> Refusal:
        """Fits the threshold below which an image is of no known class, on this split."""
        return fit_refusal(*self._open_set_signals())

    def image_files(self) -> dict[str, dict[str, str]]:
        """Returns image files for a report: of each image by key, and one of each class in the memory by name."""
        pool = self.dataset.parts[f"{self.recipe.eval.split}_memory"]
        return {
            "images": {sample.key: sample.path for sample in self.samples},
            "classes": {self.dataset.names[sample.label]: sample.path for sample in reversed(pool)},
        }

    def predictions(self) -> Iterator[dict]:
        """Yields one record per image, memory and method: all that ``eval.report.results`` needs."""
        for task_index, task in enumerate(self.tasks):
            if task.task == "unknown":
                yield from self._unknown_records(task_index)
                continue
            for method, labels_by_image in task.retrieved.items():
                for sample, labels in zip(self.samples, labels_by_image, strict=True):
                    yield self._head(task, method, sample) | {"ranking": [self.dataset.names[i] for i in labels]}
            # Nothing is fused where the true class is always among the candidates.
            methods = [method for method in self.ranked if task.task != CHOICE or method in METHODS]
            for image in range(len(self.samples)):  # an image's lines together, as they share their candidates
                candidates = self._candidate_records(task_index, image)
                for method in methods:
                    yield self._ranker_record(method, task_index, image, candidates)
        yield from self._ranker_only_records()

    def _head(self, task: EvalTask, method: str, sample: Sample) -> dict:
        head = {"key": sample.key, "task": task.task, "shots": task.shots, "seed": task.seed}
        return head | {"method": method, "truth": self.dataset.names[sample.label]}

    def _candidate_records(self, task_index: int, image: int) -> list[dict]:
        return [{"name": c.name, "score": c.score} for c in self.tasks[task_index].candidates[image]]

    def _ranker_record(self, method: str, task_index: int, image: int, candidates: list[dict]) -> dict:
        """Builds a ranker's record. It holds the numbers that everything was computed with: rescoring repeats it."""
        task, ranking = self.tasks[task_index], self.ranked[method][task_index][image]
        names = [candidate["name"] for candidate in candidates]
        record = self._head(task, method, self.samples[image]) | {
            "candidates": candidates,
            "ranking": [names[index] for index in ranking.order],
            "probabilities": list(ranking.probabilities),
            "outcome": ranking.outcome,
            "reply": ranking.reply,
        }
        if method == "rar":  # what fusion and gate are computed from
            pairs = task.similarities[image, : len(candidates)]
            record["similarities"] = np.where(np.isnan(pairs), None, pairs).tolist()
        has_orders = method in self.responses and self.mode not in POINTWISE
        return record | ({"asked": self._shown_orders(method, task_index, image)} if has_orders else {})

    def _shown_orders(self, method: str, task_index: int, image: int) -> list[dict]:
        """Returns each order in which the candidates were shown, as retriever positions, and what was ranked first."""
        names = [candidate.name for candidate in self.tasks[task_index].candidates[image]]
        orders = []
        for request in self.requests[task_index][image]:
            first = to_ranking(self.mode, names, request, self.responses[method][request.id]).order[0]
            shown = [names.index(name) for name in request.shown_names]
            orders.append({"shown": shown, "first": names.index(names[first])})
        return orders

    def _unknown_records(self, task_index: int) -> Iterator[dict]:
        """Yields the tuned ranker's records with a memory that lacks classes."""
        for image, (signals, known) in enumerate(zip(*self._open_set_signals(), strict=True)):
            candidates = self._candidate_records(task_index, image)
            yield self._ranker_record("rar", task_index, image, candidates) | {"known": known, "signals": signals}

    def _ranker_only_records(self) -> Iterator[dict]:
        """Yields the records of the ranker without a retriever, with as many of all classes as a metric looks at."""
        names = [self.dataset.names[label] for label in self.dataset.labels(f"{self.recipe.eval.split}_memory")]
        depth = max(5, *(len(row) for task in self.tasks for row in task.candidates[:1]))
        for image, request in zip(*self.ranker_only, strict=True):
            order = to_ranking(self.ranker_only_mode, names, request, self.responses["alone"][request.id]).order
            best = [names[index] for index in order[:depth]]
            head = {"key": self.samples[image].key, "task": "zero_shot", "shots": 0, "seed": 0, "method": ALONE}
            yield head | {"truth": self.dataset.names[self.truths[image]], "ranking": best}
