"""Chooses source, number of candidates, orders and fusion for each kind of memory, on the validation split."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.records import Ranking, Sample
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset
from data_prep.embedding.encoder import Encoder, embed_images
from data_prep.memory.memories import Memories
from data_prep.prompting.prompts import LETTERS
from data_prep.settings import SCORED, EvalArgs, Recipe
from eval.calibration.choice import MIN_IMAGES, Choice, Trial, candidate_counts, choose, choose_source, fixed_choice
from eval.ranking.answer_key import answers_folder
from eval.ranking.answers import read_speed
from eval.ranking.batches import InferenceJob, RequestTable
from eval.ranking.parsing import ScoreTable, aggregate_responses
from eval.ranking.rank import run_rankers
from eval.ranking.request import RankingMode, RankingRequest, Response, select_descriptions, shuffled_requests
from eval.recognition.tasks import find_similarities, list_memories, load_task_memories, make_kind, retriever_methods

log = logging.getLogger(__name__)

_LETTER_COUNTS = (5, 10, 20, 26)
"""Numbers of candidates that are compared in mode letters, where each needs its own prompt."""


def make_fixed_choices(args: EvalArgs) -> dict[str, Choice]:
    """Returns the choice of each kind of memory where the settings leave nothing open."""
    choices = {}
    for task, shots, _ in list_memories(args):
        source = "name" if task == "zero_shot" else args.candidates
        choices[make_kind(task, shots)] = fixed_choice(args, source)
    return choices


@dataclass(frozen=True)
class _Retrieved:
    """The widest list of candidates from one memory.

    Attributes:
        labels: Candidates per validation image, shape ``[n, k]``; -1 pads.
        similarities: Shape ``[n, k, 2]``.
        truths: Position of the true class per image, or None.
    """

    labels: np.ndarray
    similarities: np.ndarray
    truths: list[int | None]


class RankingChooser:
    """Tries rankings on validation images.

    Args:
        recipe: Settings, with the validation split as the evaluated one.
        dataset: Its images and memory pool.
        encoder: Embeds images and names.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, encoder: Encoder):
        self.recipe, self.dataset, self.encoder = recipe, dataset, encoder
        self.samples = dataset.parts["val"]
        self.labels = np.array([sample.label for sample in self.samples])
        self.enough = len(self.samples) >= MIN_IMAGES
        self.fuses = recipe.fuses and (self.enough or recipe.eval.fusion is True)
        self.counts = self._list_counts()
        self.orders = self._list_orders()
        self.sources: dict[str, tuple[str, list[dict]]] = {}
        self.retrieved: dict[str, list[_Retrieved]] = defaultdict(list)
        self.speeds: dict[int, float | None] = {}

    @property
    def _scored(self) -> bool:
        return self.recipe.ranker.mode in SCORED

    def _list_counts(self) -> list[int]:
        """Lists the numbers of candidates to try."""
        args, classes = self.recipe.eval, len(self.dataset.labels("val_memory"))
        if args.k != "auto" or not self._scored or not self.enough:
            return [min(args.fixed_k, classes)]
        if self.recipe.ranker.mode == "likelihood":
            return candidate_counts(min(args.k_max, classes))
        most = min(args.k_max, classes, len(LETTERS))
        return [*(k for k in _LETTER_COUNTS if k < most), most]

    def _list_orders(self) -> list[int]:
        """Lists the numbers of orders to try."""
        args = self.recipe.eval
        if self.recipe.ranker.mode == "likelihood":
            return [1]
        may_choose = args.permutations == "auto" and self.recipe.ranker.mode == "letters" and self.enough
        return [1, 2] if may_choose else [args.fixed_permutations]

    def choose(self, adapter: Path, out: Path) -> dict[str, Choice]:
        """Chooses for every kind of memory that the recipe evaluates with.

        Args:
            adapter: The tuned model's adapter.
            out: Folder of the tuned ranker's answers on validation images.

        Returns:
            dict[str, Choice]: By kind of memory.

        Raises:
            UserError: Fusion is asked for, and no validation image has its class among the candidates.
        """
        self._retrieve()
        if not self.fuses and len(self.counts) * len(self.orders) == 1:
            return {kind: self._plain(kind) for kind in self.retrieved}
        requests = self._make_requests()
        lists = {id(groups): groups for by_count in requests.values() for groups in by_count.values()}
        groups = [group for groups in lists.values() for group in groups]
        jobs = self._timed_jobs()
        responses = run_rankers(self.recipe, groups, adapter, out, {"rar": True}, jobs.values())["rar"]
        folder = answers_folder(out, self.recipe.ranker, adapter)
        self.speeds = {k: read_speed(folder, job.name) for k, job in jobs.items()}
        return {kind: self._choose_kind(kind, requests, responses) for kind in self.retrieved}

    def _timed_jobs(self) -> dict[int, InferenceJob]:
        """Makes a job of two batches for each number of candidates, of which the second is timed."""
        size = self.recipe.eval.batch_size
        chosen = evenly_spaced(len(self.samples), 2 * size)
        if len(self.counts) == 1 or len(chosen) < 2 * size:
            return {}
        labels, mode = next(iter(self.retrieved.values()))[0].labels, RankingMode.from_recipe(self.recipe, True)
        jobs = {}
        for k in self.counts:
            groups = [group[:1] for group in self._build(labels[chosen, :k], [self.samples[row] for row in chosen])]
            jobs[k] = InferenceJob(f"speed-{k}", True, mode, RequestTable(groups), size, timed=True)
        return jobs

    def _plain(self, kind: str) -> Choice:
        """Makes the choice where nothing is compared but the source."""
        source, rows = self.sources[kind]
        mode = self.recipe.ranker.mode
        reason = "as set"
        if self.recipe.eval.k == "auto":
            reason = f"mode {mode} gives no probabilities" if self.enough else self._too_few
        return Choice("rar", source, self.counts[0], self.orders[0], reason, len(self.samples), [], rows)

    @property
    def _too_few(self) -> str:
        return f"only {len(self.samples)} validation images, fewer than {MIN_IMAGES}: nothing was chosen"

    def _retrieve(self) -> None:
        """Chooses the source of each kind of memory, and retrieves its candidates."""
        recipe, depth = self.recipe, self.counts[-1]
        xq = embed_images(self.encoder, self.samples, recipe.retriever, Path(recipe.cache))
        memories: dict[str, list[Memories]] = defaultdict(list)
        for memory in list_memories(recipe.eval):
            loaded = load_task_memories(recipe, self.encoder, self.dataset, *memory)
            memories[make_kind(*memory[:2])].append(loaded)
        for kind, of_kind in memories.items():
            found = {
                source: [loaded.search(source, xq, depth, recipe.retriever)[1] for loaded in of_kind]
                for source in self._candidate_sources(of_kind[0])
            }
            ranks = {
                source: np.concatenate([_rank_of(labels, self.labels, depth) for labels in tables])
                for source, tables in found.items()
            }
            source, rows = choose_source(ranks, depth)
            self.sources[kind] = source, rows if len(rows) > 1 else []
            for loaded, labels in zip(of_kind, found[source], strict=True):
                similarities = find_similarities(loaded, xq, labels, recipe.retriever)
                truths = [rank if rank < depth else None for rank in _rank_of(labels, self.labels, depth).tolist()]
                self.retrieved[kind].append(_Retrieved(labels, similarities, truths))

    def _candidate_sources(self, memories: Memories) -> list[str]:
        if memories.images is None:
            return ["name"]
        chosen = self.recipe.eval.candidates
        if chosen != "auto":
            return [chosen]
        return [*retriever_methods(memories).values()][::-1] if self.enough else ["fused"]

    def _make_requests(self) -> dict[tuple[str, int], dict[int, list[list[RankingRequest]]]]:
        """Builds requests by kind and index of the memory, and number of candidates.

        In ``likelihood`` one request per image serves all memories and numbers of candidates.
        """
        tables = {
            (kind, index): retrieved.labels
            for kind, of_kind in self.retrieved.items()
            for index, retrieved in enumerate(of_kind)
        }
        if self.recipe.ranker.mode == "likelihood":
            shared = self._build(
                [np.unique(np.concatenate(rows)) for rows in zip(*tables.values(), strict=True)], self.samples
            )
            return {key: dict.fromkeys(self.counts, shared) for key in tables}
        return {
            key: {k: self._build(labels[:, :k], self.samples) for k in self.counts} for key, labels in tables.items()
        }

    def _build(self, rows: Sequence[np.ndarray], samples: Sequence[Sample]) -> list[list[RankingRequest]]:
        groups, texts = [], self.dataset.first_descriptions
        for sample, labels in zip(samples, rows, strict=True):
            names = tuple(sorted({self.dataset.names[label] for label in labels.tolist() if label >= 0}))
            described = select_descriptions(self.recipe, names, texts)
            request = RankingRequest(sample.key, sample.path, names, 0, (), (sample.digest,), described)
            groups.append(shuffled_requests(request, self.orders[-1]))
        return groups

    def _choose_kind(self, kind: str, requests: dict, responses: dict[str, Response]) -> Choice:
        args, retrieved = self.recipe.eval, self.retrieved[kind]
        trials = []
        for k in self.counts:
            similarities = np.concatenate([memory.similarities[:, :k] for memory in retrieved])
            truths = [truth if truth is not None and truth < k else None for m in retrieved for truth in m.truths]
            for orders in self.orders:
                rankings = []
                for index, memory in enumerate(retrieved):
                    rankings += self._rank(memory.labels[:, :k], requests[kind, index][k], orders, responses)
                trials.append(Trial(k, orders, rankings, similarities, truths, self.speeds.get(k)))
        if self.fuses and args.fusion and not any(truth is not None for trial in trials for truth in trial.truths):
            raise UserError("eval.fusion=true: no validation image has its class among the candidates; raise eval.k")
        source, rows = self.sources[kind]
        choice = choose(source, trials, len(self.samples), self.fuses, (args.gate, args.gate_loss), rows)
        log.info("%s: %s with k = %d from %s: %s", kind, choice.method, choice.k, choice.source, choice.reason)
        if choice.method == "retriever":
            log.warning("%s: the retriever alone is better on validation images than with the ranker: it is used", kind)
        return choice

    def _rank(
        self, labels: np.ndarray, groups: list[list[RankingRequest]], orders: int, responses: dict[str, Response]
    ) -> list[Ranking]:
        """Reads the rankings of one memory's candidates, shown in the first ``orders`` orders."""
        names = [[self.dataset.names[label] for label in row if label >= 0] for row in labels.tolist()]
        if self.recipe.ranker.mode == "likelihood":
            table = ScoreTable(map(len, names))
            for image, (row, (request, *_)) in enumerate(zip(names, groups, strict=True)):
                by_name = dict(zip(request.names, responses[request.id].scores, strict=True))
                table.fill(image, [by_name[name] for name in row])
            return table.rankings()
        rankings = []
        for row, group in zip(names, groups, strict=True):
            own = [responses[request.id] for request in group[:orders]]
            mode, method = self.recipe.ranker.mode, self.recipe.eval.aggregate
            rankings.append(aggregate_responses(mode, row, group[:orders], own, method))
        return rankings


def _rank_of(labels: np.ndarray, truths: np.ndarray, missing: int) -> np.ndarray:
    """Returns the position of each row's true label, shape ``[n]``; ``missing`` where it is not there."""
    hits = labels == truths[:, None]
    return np.where(hits.any(1), hits.argmax(1), missing)
