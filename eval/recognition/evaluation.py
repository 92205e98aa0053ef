"""One evaluation of a split: what is asked, and what becomes of the answers."""

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
from eval.ranking.inference import InferenceJob, answer_all
from eval.ranking.parsing import to_one_ranking, to_ranking
from eval.ranking.request import RankingMode, RankingRequest, Response, shuffled_requests
from eval.recognition.tasks import EvalTask

log = logging.getLogger(__name__)

ALONE_BATCH = 4
"""Images per pass where every class's name is scored."""


class Evaluation:
    """One evaluation: where it writes and what it asks.

    Args:
        recipe: Settings.
        dataset: With the split's queries and memory pool.
        settings: Candidates by memory.
        out: Where answers go.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, settings: list[EvalTask], out: Path):
        self.recipe, self.dataset, self.settings, self.out = recipe, dataset, settings, out
        self.samples = dataset.parts[recipe.eval.split]
        self.truths = [sample.label for sample in self.samples]
        self.mode = recipe.ranker.mode
        self.asked = self._asked()
        self.ranked: dict[str, list[list[Ranking]]] = {}
        self.answers: dict[str, dict[str, Response]] = {}

    def _asked(self) -> list[list[list[RankingRequest]]]:
        """The question of each setting and image, in each order shown."""
        # A likelihood depends on neither order nor company: one question serves all memories.
        free = self.mode == "likelihood"
        count = 1 if free else self.recipe.eval.permutations
        pool = self.dataset.parts[f"{self.recipe.eval.split}_memory"]
        content_of = {sample.path: sample.digest for sample in pool}
        asked = []
        for setting in self.settings:
            asked.append([])
            for number, sample in enumerate(self.samples):
                sources = self.settings if free else [setting]
                names = tuple(sorted({c.name for source in sources for c in source.candidates[number]}))
                examples = self._examples(setting, number, names)
                contents = (sample.digest, *(content_of[path] for path in examples))
                question = RankingRequest(sample.key, sample.path, names, examples=examples, contents=contents)
                asked[-1].append(shuffled_requests(question, count))
        return asked

    @staticmethod
    def _examples(setting: EvalTask, number: int, names: tuple[str, ...]) -> tuple[str, ...]:
        own = setting.examples[number] if setting.examples else ()
        by_name = {c.name: path for c, path in zip(setting.candidates[number], own, strict=False)}
        return tuple(by_name[name] for name in names) if own else ()

    def _alone(self) -> tuple[list[int], list[RankingRequest]]:
        """Images and questions of the ranker without retriever: every class's name, on evenly spaced images."""
        args = self.recipe.eval
        labels = self.dataset.labels(f"{args.split}_memory")
        chosen = evenly_spaced(len(self.samples), args.ranker_only_images)
        if not chosen or len(labels) > args.ranker_only_classes:
            log.info(
                "ranker_alone: left out (%d classes, eval.ranker_only_images=%d)", len(labels), args.ranker_only_images
            )
            return [], []
        names = tuple(dict.fromkeys(self.dataset.names[label] for label in labels))
        some = [self.samples[number] for number in chosen]
        return chosen, [RankingRequest(sample.key, sample.path, names, contents=(sample.digest,)) for sample in some]

    def ask(self, adapter: Path, untuned: bool = True) -> None:
        """Asks what is not answered yet, and ranks.

        Args:
            adapter: The tuned model's.
            untuned: Also the base model; what is fitted on development looks at the tuned one alone.
        """
        args = self.recipe.eval
        distinct = list({q.id: q for own in self.asked for several in own for q in several}.values())
        manners = {"rar_untuned": RankingMode(self.mode, args.format_hint, args.reply_tokens)} if untuned else {}
        manners["rar"] = RankingMode(self.mode, False, args.reply_tokens)
        jobs = [
            InferenceJob(name, name == "rar", manner, distinct, args.batch_size) for name, manner in manners.items()
        ]
        self.alone = self._alone()
        jobs.append(InferenceJob("alone", True, RankingMode("likelihood"), self.alone[1], ALONE_BATCH))
        for job in jobs:
            log.info("%s: ranking by %s, %d questions", job.name, job.manner.mode, len(job.questions))
        self.answers = answer_all(jobs, self.recipe.ranker, adapter, self.recipe.trainer, self.out)
        for name in manners:
            self.ranked[name] = [
                [self._ranking(name, setting, n, several) for n, several in enumerate(own)]
                for setting, own in zip(self.settings, self.asked, strict=True)
            ]

    def _ranking(self, method: str, setting: EvalTask, number: int, several: list[RankingRequest]) -> Ranking:
        names = [candidate.name for candidate in setting.candidates[number]]
        answers = [self.answers[method][question.id] for question in several]
        return to_one_ranking(self.mode, names, several, answers, self.recipe.eval.aggregate)

    def _scores(self, setting: EvalTask) -> list[list[float]]:
        return [[candidate.score for candidate in row] for row in setting.candidates]

    def _positions(self, setting: EvalTask) -> list[int | None]:
        """The truth's place among the candidates per image, or None."""
        labels = [[candidate.label for candidate in row] for row in setting.candidates]
        return [row.index(truth) if truth in row else None for row, truth in zip(labels, self.truths, strict=True)]

    def _numbers(self, kind: str) -> list[int]:
        return [number for number, setting in enumerate(self.settings) if setting.kind == kind]

    def _pooled(self, kind: str) -> tuple[list[Ranking], list[list[float]], list[int | None]]:
        """The tuned ranker's rankings, the retriever's scores and the truths of all seeds of a kind."""
        numbers = self._numbers(kind)
        return (
            [ranking for n in numbers for ranking in self.ranked["rar"][n]],
            [scores for n in numbers for scores in self._scores(self.settings[n])],
            [truth for n in numbers for truth in self._positions(self.settings[n])],
        )

    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(setting.kind for setting in self.settings if setting.task != "unknown"))

    def fit_fusions(self) -> dict[str, Fusion]:
        """Fits a fusion for each task and number of shots, on this split."""
        args = self.recipe.eval
        return {kind: fit_fusion(*self._pooled(kind), args.gate, args.gate_loss) for kind in self._kinds()}

    def fuse(self, fusions: dict[str, Fusion]) -> None:
        """Adds the methods ``rar_fused`` and ``rar_gated``."""
        self.ranked["rar_fused"], self.ranked["rar_gated"] = [], []
        for setting, rankings in zip(self.settings, self.ranked["rar"], strict=True):
            fusion, scores = fusions.get(setting.kind), self._scores(setting)
            fused = gated = rankings  # with a memory that lacks classes nothing is fitted
            if fusion:
                fused = [fusion.fused(r, own) for r, own in zip(rankings, scores, strict=True)]
                gated = [f if fusion.asks(own) else fusion.unasked(own) for f, own in zip(fused, scores, strict=True)]
            self.ranked["rar_fused"].append(fused)
            self.ranked["rar_gated"].append(gated)

    def _signals(self) -> tuple[list[dict[str, float]], list[bool]]:
        """What may tell unknown classes from known ones, and which images' classes are known."""
        (number,) = self._numbers(next(s.kind for s in self.settings if s.task == "unknown"))
        setting, signals = self.settings[number], []
        for image, (several, ranking) in enumerate(zip(self.asked[number], self.ranked["rar"][number], strict=True)):
            names = {candidate.name for candidate in setting.candidates[image]}
            best = [
                max(s for name, s in zip(q.names, self.answers["rar"][q.id].scores, strict=True) if name in names)
                for q in several
            ]
            signals.append(open_set_signals(setting.candidates[image], ranking, float(np.mean(best))))
        return signals, [truth not in setting.held_out for truth in self.truths]

    def fit_refusal(self) -> Refusal:
        """Fits the threshold below which an image is of no known class, on this split."""
        return fit_refusal(*self._signals())

    def pictures(self) -> dict[str, dict[str, str]]:
        """Image files for a report: of each image by key, and one of each class in the memory by name."""
        pool = self.dataset.parts[f"{self.recipe.eval.split}_memory"]
        return {
            "images": {sample.key: sample.path for sample in self.samples},
            "classes": {self.dataset.names[sample.label]: sample.path for sample in reversed(pool)},
        }

    def predictions(self) -> Iterator[dict]:
        """One record per image, memory and method: all that ``eval.report.results`` needs."""
        for number, setting in enumerate(self.settings):
            if setting.task == "unknown":
                yield from self._unknown_lines(number)
                continue
            for method, found in setting.retrieved.items():
                for sample, labels in zip(self.samples, found, strict=True):
                    yield self._head(setting, method, sample) | {"ranking": [self.dataset.names[i] for i in labels]}
            for method in self.ranked:
                for image in range(len(self.samples)):
                    yield self._ranked_line(method, number, image)
        yield from self._alone_lines()

    def _head(self, setting: EvalTask, method: str, sample: Sample) -> dict:
        head = {"key": sample.key, "task": setting.task, "shots": setting.shots, "seed": setting.seed}
        return head | {"method": method, "truth": self.dataset.names[sample.label]}

    def _ranked_line(self, method: str, number: int, image: int) -> dict:
        """A ranker's record. Numbers are written whole, so that figures come out of it as they went in."""
        setting, ranking = self.settings[number], self.ranked[method][number][image]
        candidates = setting.candidates[image]
        line = self._head(setting, method, self.samples[image]) | {
            "candidates": [{"name": c.name, "score": c.score} for c in candidates],
            "ranking": [candidates[place].name for place in ranking.order],
            "probabilities": list(ranking.probabilities),
            "outcome": ranking.outcome,
            "reply": ranking.reply,
        }
        orders = method in self.answers and self.mode != "likelihood"
        return line | ({"asked": self._orders(method, number, image)} if orders else {})

    def _orders(self, method: str, number: int, image: int) -> list[dict]:
        """Each order in which the candidates were shown, as places in the retriever's, and what came first of it."""
        names = [candidate.name for candidate in self.settings[number].candidates[image]]
        orders = []
        for question in self.asked[number][image]:
            first = to_ranking(self.mode, names, question, self.answers[method][question.id]).order[0]
            shown = [names.index(name) for name in question.shown_names]
            orders.append({"shown": shown, "first": names.index(names[first])})
        return orders

    def _unknown_lines(self, number: int) -> Iterator[dict]:
        """The tuned ranker's records with a memory that lacks classes."""
        for image, (signals, known) in enumerate(zip(*self._signals(), strict=True)):
            yield self._ranked_line("rar", number, image) | {"known": known, "signals": signals}

    def _alone_lines(self) -> Iterator[dict]:
        """Records of the ranker without retriever; of all classes, as many as a figure looks at."""
        names = [self.dataset.names[label] for label in self.dataset.labels(f"{self.recipe.eval.split}_memory")]
        bare = EvalTask("zero_shot", 0, 0, [], {})
        for image, question in zip(*self.alone, strict=True):
            order = to_ranking("likelihood", names, question, self.answers["alone"][question.id]).order
            best = [names[place] for place in order[: max(self.recipe.eval.k, 5)]]
            yield self._head(bare, ALONE, self.samples[image]) | {"ranking": best}
