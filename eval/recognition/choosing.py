"""Chooses source, number of candidates, orders and fusion for each kind of memory, on the validation split."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch.utils.data import ConcatDataset

from data_prep.adapters.sources import with_adapters
from data_prep.core.errors import UserError
from data_prep.core.records import Candidate
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset
from data_prep.distributed.launch import shared_processes
from data_prep.embedding.encoder import Encoder
from data_prep.embedding.pair import Queries, for_images
from data_prep.memory.columns import label_rows
from data_prep.memory.memories import Memories
from data_prep.prompting.prompts import LETTERS
from data_prep.settings import POINTWISE, SCORED, EvalArgs, Recipe
from data_prep.settings.evaluation import MAX_KEMENY, MIN_IMAGES
from eval.calibration.choice import (
    Choice,
    Trial,
    candidate_counts,
    choose,
    choose_source,
    fixed_choice,
)
from eval.calibration.fusion import mark_new
from eval.ranking.answer_key import answers_folder
from eval.ranking.answers import read_speed
from eval.ranking.batches import InferenceJob, LazyGroups, RequestTable
from eval.ranking.parsing import ScoreTable, read_shared
from eval.ranking.rank import read_ranking, run_rankers
from eval.ranking.request import RankingMode, Response
from eval.recognition.adapters import choose_adapters
from eval.recognition.requests import RequestBuilder
from eval.recognition.tasks import (
    embed_split,
    find_exemplars,
    find_similarities,
    list_memories,
    load_task_memories,
    make_kind,
    retriever_methods,
    set_source,
)

log = logging.getLogger(__name__)

_LETTER_COUNTS = (5, 10, 20, 26)
"""Numbers of candidates that are compared in mode letters, where each needs its own prompt."""


def make_fixed_choices(args: EvalArgs) -> dict[str, Choice]:
    """Returns the choice of each kind of memory where the settings leave nothing open."""
    choices = {}
    for task, shots, _ in list_memories(args):
        choices[make_kind(task, shots)] = fixed_choice(args, set_source(args, task))
    return choices


@dataclass(frozen=True)
class _Retrieved:
    """The widest list of candidates from one memory, per validation image.

    Attributes:
        candidates: In retriever order.
        similarities: Of the candidates, as ``find_similarities`` computes them.
        truths: Position of the true class, or None.
        examples: An image file for each candidate; empty where none are shown.
    """

    candidates: list[tuple[Candidate, ...]]
    similarities: np.ndarray
    truths: list[int | None]
    examples: list[tuple[str, ...]]


class RankingChooser:
    """Tries rankings on validation images.

    Args:
        recipe: Settings, with the validation split as the evaluated one.
        dataset: Its images and memory pool.
        encoder: Embeds images and names.
        tuned: Names of the classes that were tuned on, where validation images are also of others; else none.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, encoder: Encoder, tuned: Sequence[str] = ()):
        self.recipe, self.dataset, self.encoder, self.tuned = recipe, dataset, encoder, list(tuned)
        self.samples = dataset.parts["val"]
        self.labels = np.array([sample.label for sample in self.samples])
        self.enough = len(self.samples) >= MIN_IMAGES
        self.fuses = recipe.fuses and (self.enough or recipe.eval.fusion is True)
        self.counts = self._list_counts()
        self.orders = self._list_orders()
        self.sources: dict[str, tuple[str, list[dict]]] = {}
        self.adapters: dict[str, dict[str, dict[str, float]]] = {}
        self.retrieved: dict[str, list[_Retrieved]] = defaultdict(list)
        self.speeds: dict[int, float | None] = {}

    def _list_counts(self) -> list[int]:
        """Lists the numbers of candidates to try."""
        args, classes, mode = self.recipe.eval, len(self.dataset.labels("val_memory")), self.recipe.ranker.mode
        if args.k != "auto" or mode not in SCORED or not self.enough:
            return [args.fixed_k]
        most = min(args.k_max, classes)
        if mode in POINTWISE:
            return candidate_counts(most)
        most = min(most, MAX_KEMENY if args.aggregate == "kemeny" else len(LETTERS))
        return [*(k for k in _LETTER_COUNTS if k < most), most]

    def _list_orders(self) -> list[int]:
        """Lists the numbers of orders to try."""
        args = self.recipe.eval
        if self.recipe.ranker.mode in POINTWISE:
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
        if not self.enough and self._is_open:
            log.warning("%s", self._too_few)
        if not self.fuses and len(self.counts) * len(self.orders) == 1:
            return {kind: self._plain(kind) for kind in self.retrieved}
        groups, jobs = self._make_groups(), self._timed_jobs()
        lists = {id(of_count): of_count for by_count in groups.values() for of_count in by_count.values()}
        responses = run_rankers(self.recipe, ConcatDataset(lists.values()), adapter, out, {"rar": True}, jobs.values())
        if jobs:
            folder = answers_folder(out, self.recipe.ranker, adapter)
            self.speeds = {k: read_speed(folder, job.name) for k, job in jobs.items()}
        tables = self._read_tables(groups, responses["rar"])
        return {kind: self._choose_kind(kind, groups, responses["rar"], tables) for kind in self.retrieved}

    def _read_tables(self, groups: dict, responses: dict[str, Response]) -> dict[tuple[str, int], ScoreTable]:
        """Reads the scores by kind and index of the memory in pointwise modes, where a request serves all memories."""
        if self.recipe.ranker.mode not in POINTWISE:
            return {}
        candidates = [self.retrieved[kind][index].candidates for kind, index in groups]
        shared = next(iter(groups.values()))[self.counts[-1]]
        return dict(zip(groups, read_shared(candidates, shared, [responses])[0], strict=True))

    @property
    def _is_open(self) -> bool:
        """Whether the settings leave anything to choose."""
        args = self.recipe.eval
        return "auto" in (args.k, args.candidates) or (self.recipe.fuses and args.fusion is None)

    def _timed_jobs(self) -> dict[int, InferenceJob]:
        """Makes a job for each number of candidates, of which every process times its second batch."""
        devices, nodes = shared_processes() or (self.recipe.trainer.devices, 1)
        size = self.recipe.eval.batch_size
        count = 2 * size * devices * nodes
        if len(self.counts) == 1 or len(self.samples) < count or self.recipe.ranker.backend != "local":
            return {}
        rows, mode = evenly_spaced(len(self.samples), count), RankingMode.from_recipe(self.recipe, True)
        samples, (first, *_) = [self.samples[row] for row in rows], next(iter(self.retrieved.values()))
        jobs = {}
        for k in self.counts:
            builder = RequestBuilder(self.recipe, samples, [[first.candidates[row][:k] for row in rows]])
            table = RequestTable(LazyGroups(builder, count))
            jobs[k] = InferenceJob(f"speed-{k}", True, mode, table, size, timed=True)
        return jobs

    def _plain(self, kind: str) -> Choice:
        """Makes the choice where nothing is compared but the source."""
        source, rows = self.sources[kind]
        mode = self.recipe.ranker.mode
        reason = "as set"
        if not self.enough and self._is_open:
            reason = self._too_few
        elif self.recipe.eval.k == "auto":
            reason = f"mode {mode} gives no probabilities"
        choice = Choice("rar", source, self.counts[0], self.orders[0], reason, len(self.samples), [], rows)
        return replace(choice, adapters=self.adapters[kind])

    @property
    def _too_few(self) -> str:
        return f"nothing was chosen, with {len(self.samples)} validation images, fewer than {MIN_IMAGES}"

    def _retrieve(self) -> None:
        """Chooses the source of each kind of memory, and retrieves its candidates."""
        recipe, depth = self.recipe, self.counts[-1]
        xq = embed_split(recipe, self.encoder, self.dataset)
        memories: dict[str, list[Memories]] = defaultdict(list)
        for memory in list_memories(recipe.eval):
            loaded = load_task_memories(recipe, self.encoder, self.dataset, *memory)
            memories[make_kind(*memory[:2])].append(loaded)
        for kind, of_kind in memories.items():
            adapters = self.adapters[kind] = choose_adapters(recipe, of_kind, xq, self.labels, MIN_IMAGES)
            of_kind = [with_adapters(loaded, adapters, Path(recipe.cache)) for loaded in of_kind]
            found = {
                source: [loaded.search(source, xq, depth, recipe.retriever)[1] for loaded in of_kind]
                for source in self._candidate_sources(kind, of_kind[0])
            }
            ranks = {
                source: np.concatenate([_rank_of(labels, self.labels, depth) for labels in tables])
                for source, tables in found.items()
            }
            source, rows = choose_source(ranks, depth)
            self.sources[kind] = source, rows if len(rows) > 1 else []
            for loaded, labels in zip(of_kind, found[source], strict=True):
                self.retrieved[kind].append(self._describe(loaded, source, xq, labels))

    def _describe(self, memories: Memories, source: str, xq: Queries, labels: np.ndarray) -> _Retrieved:
        """Looks up what a trial needs of a source's candidates from one memory, ``labels`` of shape ``[n, k]``."""
        # Nothing reads a score here, so that equal candidates of all images can be one object.
        by_label = {
            label: Candidate(label, self.dataset.names[label], 0.0) for label in np.unique(labels[labels >= 0]).tolist()
        }
        candidates = [tuple(map(by_label.__getitem__, row)) for row in label_rows(labels)]
        ranks = _rank_of(labels, self.labels, labels.shape[1]).tolist()
        truths = [rank if rank < labels.shape[1] else None for rank in ranks]
        examples = []
        if self.recipe.eval.show_exemplars and memories.images:
            paths = {sample.digest: sample.path for sample in self.dataset.parts["val_memory"]}
            examples = find_exemplars(memories.images, paths, for_images(xq), candidates)
        similarities = find_similarities(memories, xq, labels, self.recipe.retriever, source)
        similarities = mark_new(similarities, candidates, self.tuned)
        return _Retrieved(candidates, similarities, truths, examples)

    def _candidate_sources(self, kind: str, memories: Memories) -> list[str]:
        if memories.images is None:
            return ["name"]
        chosen = set_source(self.recipe.eval, kind.partition("-")[0])
        usual = "image" if memories.names is None else "fused"
        if chosen != "auto":
            return [chosen]
        # Of equally good ones the first is taken: what needs no fit goes before the adapters.
        methods = [source for source in retriever_methods(memories).values() if source not in memories.sources]
        return [*methods[::-1], *memories.sources] if self.enough else [usual]

    def _make_groups(self) -> dict[tuple[str, int], dict[int, LazyGroups]]:
        """Makes the requests by kind and index of the memory, and by number of candidates: a group per image.

        In a pointwise mode one request per image serves all memories and numbers of candidates.
        """
        memories = {(kind, i): memory for kind, of_kind in self.retrieved.items() for i, memory in enumerate(of_kind)}
        count, samples, texts = len(self.samples), self.samples, self.dataset.first_descriptions
        if self.recipe.ranker.mode in POINTWISE:
            sources = [memory.candidates for memory in memories.values()]
            shared = LazyGroups(RequestBuilder(self.recipe, samples, sources, 1, texts), count)
            return {key: dict.fromkeys(self.counts, shared) for key in memories}
        digests = {sample.path: sample.digest for sample in self.dataset.parts["val_memory"]}

        def make(memory: _Retrieved, k: int) -> LazyGroups:
            rows, examples = ([row[:k] for row in table] for table in (memory.candidates, memory.examples))
            builder = RequestBuilder(self.recipe, samples, [rows], self.orders[-1], texts, examples, digests)
            return LazyGroups(builder, count)

        return {key: {k: make(memory, k) for k in self.counts} for key, memory in memories.items()}

    def _choose_kind(self, kind: str, groups: dict, responses: dict[str, Response], tables: dict) -> Choice:
        args, memories = self.recipe.eval, self.retrieved[kind]
        of_kind = [groups[kind, index] for index in range(len(memories))]
        trials = []
        for k in self.counts:
            similarities = np.concatenate([memory.similarities[:, :k] for memory in memories])
            truths = [truth if truth is not None and truth < k else None for m in memories for truth in m.truths]
            for orders in self.orders:
                if self.recipe.ranker.mode in POINTWISE:
                    rankings = [r for index in range(len(memories)) for r in tables[kind, index].rankings(k)]
                else:
                    rankings = [
                        read_ranking(self.recipe, row[:k], group[:orders], responses)
                        for memory, by_count in zip(memories, of_kind, strict=True)
                        for row, group in zip(memory.candidates, by_count[k], strict=True)
                    ]
                speed = self.speeds.get(k) if orders == 1 else None  # measured in one order
                trials.append(Trial(k, orders, rankings, similarities, truths, speed))
        if self.fuses and args.fusion and not any(truth is not None for trial in trials for truth in trial.truths):
            raise UserError("eval.fusion=true: no validation image has its class among the candidates; raise eval.k")
        source, rows = self.sources[kind]
        choice = choose(source, trials, len(self.samples), self.fuses, (args.gate, args.gate_loss), rows)
        choice = replace(choice, adapters=self.adapters[kind], tuned_classes=self.tuned)
        log.info("%s: %s with k = %d from %s: %s", kind, choice.method, choice.k, choice.source, choice.reason)
        if choice.method == "retriever":
            log.warning("%s: the retriever alone is better on validation images than with the ranker: it is used", kind)
        return choice


def _rank_of(labels: np.ndarray, truths: np.ndarray, missing: int) -> np.ndarray:
    """Returns the position of each row's true label, shape ``[n]``; ``missing`` where it is not there."""
    hits = labels == truths[:, None]
    return np.where(hits.any(1), hits.argmax(1), missing)
