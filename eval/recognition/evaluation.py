"""The evaluation of one split: runs the rankers, and turns their responses into rankings, fits and records."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.core.records import Ranking, Sample
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset
from data_prep.settings import Recipe
from eval.calibration.fusion import Fusion, fit_fusion
from eval.calibration.open_set import Refusal, fit_refusal, open_set_signals
from eval.metrics.summary import ALONE
from eval.ranking.inference import InferenceJob
from eval.ranking.parsing import to_ranking
from eval.ranking.rank import METHODS, read_ranking, run_rankers, shuffle_request
from eval.ranking.request import RankingMode, RankingRequest, Response
from eval.recognition.tasks import EvalTask

log = logging.getLogger(__name__)

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
        self.requests = self._make_requests()
        self.ranked: dict[str, list[list[Ranking]]] = {}
        self.responses: dict[str, dict[str, Response]] = {}

    def _make_requests(self) -> list[list[list[RankingRequest]]]:
        """Builds the requests of each task and image, in each order shown."""
        # A likelihood depends neither on the order nor on the other names: one request serves all memories.
        share = self.mode == "likelihood"
        pool = self.dataset.parts[f"{self.recipe.eval.split}_memory"]
        digest_by_path = {sample.path: sample.digest for sample in pool}
        requests = []
        for task in self.tasks:
            requests.append([])
            for index, sample in enumerate(self.samples):
                sources = self.tasks if share else [task]
                names = tuple(sorted({c.name for source in sources for c in source.candidates[index]}))
                examples = self._sort_examples(task, index, names)
                contents = (sample.digest, *(digest_by_path[path] for path in examples))
                request = RankingRequest(sample.key, sample.path, names, examples=examples, contents=contents)
                requests[-1].append(shuffle_request(self.recipe, request))
        return requests

    @staticmethod
    def _sort_examples(task: EvalTask, index: int, names: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the examples of an image's candidates in the order of ``names``; empty where there are none."""
        examples = task.examples[index] if task.examples else ()
        by_name = {c.name: path for c, path in zip(task.candidates[index], examples, strict=False)}
        return tuple(by_name[name] for name in names) if examples else ()

    def _ranker_only_requests(self) -> tuple[list[int], list[RankingRequest]]:
        """Builds the requests of the ranker without a retriever: every class's name, for evenly spaced images.

        Returns:
            tuple[list[int], list[RankingRequest]]: Indices of the images, and their requests.
        """
        args = self.recipe.eval
        labels = self.dataset.labels(f"{args.split}_memory")
        indices = evenly_spaced(len(self.samples), args.ranker_only_images)
        if not indices or len(labels) > args.ranker_only_classes:
            log.info(
                "ranker_alone: left out (%d classes, eval.ranker_only_images=%d)", len(labels), args.ranker_only_images
            )
            return [], []
        names = tuple(dict.fromkeys(self.dataset.names[label] for label in labels))
        samples = [self.samples[index] for index in indices]
        return indices, [RankingRequest(s.key, s.path, names, contents=(s.digest,)) for s in samples]

    def rank(self, adapter: Path, untuned: bool = True) -> None:
        """Runs the rankers on what is not answered yet, and ranks.

        Args:
            adapter: The tuned model's adapter.
            untuned: Also run the base model; fits on the validation split only use the tuned one.
        """
        methods = METHODS if untuned else {"rar": True}
        self.ranker_only = self._ranker_only_requests()
        mode = RankingMode("likelihood")
        ranker_only = InferenceJob("alone", True, mode, self.ranker_only[1], RANKER_ONLY_BATCH_SIZE)
        all_groups = [group for groups in self.requests for group in groups]
        self.responses = run_rankers(self.recipe, all_groups, adapter, self.out, methods, [ranker_only])
        for method in methods:
            responses = self.responses[method]
            self.ranked[method] = [
                [read_ranking(self.recipe, *pair, responses) for pair in zip(task.candidates, groups, strict=True)]
                for task, groups in zip(self.tasks, self.requests, strict=True)
            ]

    def _scores(self, task: EvalTask) -> list[list[float]]:
        return [[candidate.score for candidate in row] for row in task.candidates]

    def _positions(self, task: EvalTask) -> list[int | None]:
        """Returns the true class's position among the candidates per image, or None."""
        labels = [[candidate.label for candidate in row] for row in task.candidates]
        return [row.index(truth) if truth in row else None for row, truth in zip(labels, self.truths, strict=True)]

    def _indices(self, kind: str) -> list[int]:
        return [index for index, task in enumerate(self.tasks) if task.kind == kind]

    def _pool_seeds(self, kind: str) -> tuple[list[Ranking], list[list[float]], list[int | None]]:
        """Returns the tuned ranker's rankings, the retriever's scores and the true positions of all seeds of a kind."""
        indices = self._indices(kind)
        return (
            [ranking for i in indices for ranking in self.ranked["rar"][i]],
            [scores for i in indices for scores in self._scores(self.tasks[i])],
            [position for i in indices for position in self._positions(self.tasks[i])],
        )

    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(task.kind for task in self.tasks if task.task != "unknown"))

    def fit_fusions(self) -> dict[str, Fusion]:
        """Fits a fusion for each task and number of shots, on this split."""
        args = self.recipe.eval
        return {kind: fit_fusion(*self._pool_seeds(kind), args.gate, args.gate_loss) for kind in self._kinds()}

    def fuse(self, fusions: dict[str, Fusion]) -> None:
        """Adds the methods ``rar_fused`` and ``rar_gated``."""
        self.ranked["rar_fused"], self.ranked["rar_gated"] = [], []
        for task, rankings in zip(self.tasks, self.ranked["rar"], strict=True):
            fusion, scores = fusions.get(task.kind), self._scores(task)
            fused = gated = rankings  # nothing is fitted for a memory that lacks classes
            if fusion:
                fused = [fusion.fuse(ranking, row) for ranking, row in zip(rankings, scores, strict=True)]
                gated = [
                    f if fusion.needs_ranker(row) else fusion.retriever_ranking(row)
                    for f, row in zip(fused, scores, strict=True)
                ]
            self.ranked["rar_fused"].append(fused)
            self.ranked["rar_gated"].append(gated)

    def _open_set_signals(self) -> tuple[list[dict[str, float]], list[bool]]:
        """Returns the signals that may separate unknown from known classes, and which images' classes are known."""
        (task_index,) = self._indices(next(task.kind for task in self.tasks if task.task == "unknown"))
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
            for method in self.ranked:
                for image in range(len(self.samples)):
                    yield self._ranker_record(method, task_index, image)
        yield from self._ranker_only_records()

    def _head(self, task: EvalTask, method: str, sample: Sample) -> dict:
        head = {"key": sample.key, "task": task.task, "shots": task.shots, "seed": task.seed}
        return head | {"method": method, "truth": self.dataset.names[sample.label]}

    def _ranker_record(self, method: str, task_index: int, image: int) -> dict:
        """Builds a ranker's record. Numbers are not rounded, so that rescoring gives the same metrics."""
        task, ranking = self.tasks[task_index], self.ranked[method][task_index][image]
        candidates = task.candidates[image]
        record = self._head(task, method, self.samples[image]) | {
            "candidates": [{"name": c.name, "score": c.score} for c in candidates],
            "ranking": [candidates[index].name for index in ranking.order],
            "probabilities": list(ranking.probabilities),
            "outcome": ranking.outcome,
            "reply": ranking.reply,
        }
        has_orders = method in self.responses and self.mode != "likelihood"
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
            yield self._ranker_record("rar", task_index, image) | {"known": known, "signals": signals}

    def _ranker_only_records(self) -> Iterator[dict]:
        """Yields the records of the ranker without a retriever, with as many of all classes as a metric looks at."""
        names = [self.dataset.names[label] for label in self.dataset.labels(f"{self.recipe.eval.split}_memory")]
        task = EvalTask("zero_shot", 0, 0, [], {})
        for image, request in zip(*self.ranker_only, strict=True):
            order = to_ranking("likelihood", names, request, self.responses["alone"][request.id]).order
            best = [names[index] for index in order[: max(self.recipe.eval.k, 5)]]
            yield self._head(task, ALONE, self.samples[image]) | {"ranking": best}
