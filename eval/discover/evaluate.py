"""One vocabulary-free evaluation: samples images, discovers names, recognises with them, scores, writes its files."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock, fingerprint, read_json, write_text
from data_prep.core.records import Sample
from data_prep.core.results_file import read_results, write_results
from data_prep.datasets import Dataset, read_dataset
from data_prep.datasets.unlabelled import draw_unlabelled
from data_prep.embedding.encoder import Encoder, check_reads_texts, embed_queries
from data_prep.embedding.known import open_encoder
from data_prep.leakage.contamination import drop_mined, read_mined
from data_prep.memory.memories import Memories, name_memory, with_templates
from data_prep.prompting.guesses import Guess, count_names
from data_prep.reading.name_files import read_vocabulary
from data_prep.settings import Recipe, check
from data_prep.settings.loading import load_saved_recipe
from data_prep.settings.notes import embedded_model_note
from eval.clustering.sentences import SentenceEncoder, choose_sentence_model, find_sentence_model
from eval.discover.choices import CandidateSet, rank_candidate_sets
from eval.discover.metrics import score_predictions
from eval.discover.predictions import (
    RETRIEVERS,
    guess_lines,
    mllm_alone_lines,
    names_lines,
    ranked_lines,
    true_name_lines,
)
from eval.discover.vocabulary import (
    Vocabulary,
    choose_names,
    guess_names,
    naming_prompt,
    retrieve_by_vocabulary,
    vocabulary_from_file,
)
from eval.ranking.answer_key import models_key
from eval.ranking.rank import METHODS
from rar_train.engine.result_folder import checkpoint_suffix, choose_folder, find_changes, identify
from rar_train.engine.run_folder import find_adapter

log = logging.getLogger(__name__)

SECTION = "discover"
"""The command's section of the recipe, and its folder in a run."""

_RESCORED = ("discover.sentences", "eval.bootstrap")
"""Settings with which predictions may be scored again."""

FILES = ("names.jsonl", "guesses.jsonl", "predictions.jsonl")
"""Files next to ``results.json``, which lists them with their checksums."""


def _jsonl(records: Iterable[dict]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@dataclass(frozen=True)
class Discovery:
    """A vocabulary-free evaluation of a run.

    Attributes:
        recipe: The run's, with the command's settings.
        adapter: The tuned model's.
        run: The run's folder.
        listed: Names from a file, with their counts; None to have names guessed.
        choose: Whether unlabelled images vote among the listed names.
        base: What the name of the results' folder begins with.
        name: Name of that folder; None for one made from ``base`` and differing settings.
    """

    recipe: Recipe
    adapter: Path
    run: Path
    listed: dict[str, int] | None
    choose: bool
    base: str
    name: str | None = None

    @classmethod
    def from_run(
        cls,
        ckpt: Path,
        settings: list[str],
        names: Path | None = None,
        choose: bool = False,
        name: str | None = None,
    ) -> Discovery:
        """Reads the recipe of a run, and checks what can be checked before models are loaded.

        Args:
            ckpt: A run's folder or one of its checkpoints.
            settings: ``key.sub=value``.
            names: File of names from elsewhere.
            choose: Whether unlabelled images vote among them.
            name: Name of the folder of the results; None for one made from data, split, mode and differing settings.

        Raises:
            UserError: The run, the sentence model or the names are missing, or settings are incompatible.
        """
        adapter, run = find_adapter(ckpt)
        recipe = load_saved_recipe(run / "recipe.yaml", settings)
        discover = recipe.discover
        check(names is not None or not choose, "--choose: needs names from a file; add --names FILE")
        check(
            names is None or choose or discover.memory == "name",
            f"discover.memory={discover.memory}: without --choose, names from --names have no images; add --choose",
        )
        check(
            recipe.eval.classes == "all",
            f"eval.classes={recipe.eval.classes}: eval.discover discovers and scores all classes; leave it out",
        )
        check(
            not recipe.eval.show_exemplars,
            "eval.show_exemplars=true: eval.discover has no labelled images to show; leave it false",
        )
        discover.sentences = choose_sentence_model(discover.sentences)
        if discover.sentences != "none":
            find_sentence_model(discover.sentences)
        base = f"{recipe.data.name}-{recipe.eval.split}-{recipe.ranker.mode_label}{checkpoint_suffix(run, adapter)}"
        base += f"-{names.stem}{'-chosen' if choose else ''}" if names else ""
        listed = read_vocabulary(names) if names else None
        return cls(recipe, adapter, run, listed, choose, base, name)

    @property
    def replies(self) -> Path:
        """Folder of the replies, which all evaluations of a run share."""
        return self.run / SECTION

    @cached_property
    def encoder(self) -> Encoder:
        """The retriever's encoder."""
        processes = replace(self.recipe.trainer, num_nodes=1)
        return open_encoder(self.recipe.retriever, processes, Path(self.recipe.cache))

    @cached_property
    def evaluation(self) -> dict:
        """What distinguishes the evaluation from others of its run, as ``eval.run`` describes it."""
        own, ignored = load_saved_recipe(self.run / "recipe.yaml", []), (*_RESCORED, "data.name")  # it is in the base
        changes = find_changes(own, self.recipe, ignored, SECTION)
        models = [models_key(self.recipe.ranker, self.adapter), self.encoder.id]
        names = fingerprint([self.listed, self.choose])
        return {"changes": changes, "identity": identify(self.recipe, changes, [*models, names], _RESCORED, SECTION)}

    @cached_property
    def out(self) -> Path:
        """Folder of the files that are written, which holds no results of another evaluation.

        Raises:
            UserError: Its name is invalid, or is that of another evaluation.
        """
        return choose_folder(
            self.replies, self.base, self.evaluation["changes"], self.evaluation["identity"], self.name
        )

    @property
    def uses_unlabelled(self) -> bool:
        """Whether unlabelled images are used."""
        return self.listed is None or self.choose

    @cached_property
    def dataset(self) -> Dataset:
        """The evaluated split, and its training images where unlabelled ones are sampled from them."""
        split = self.recipe.eval.split
        parts = (f"{split}_memory", split) if self.uses_unlabelled else (split,)
        dataset = read_dataset(self.recipe.data, Path(self.recipe.cache), parts)
        return drop_mined(self.run, dataset, split, self.recipe.eval.leaks)

    def _sample_unlabelled(self) -> dict[int, list[Sample]]:
        """Samples unlabelled images, by seed."""
        pool, args = self.dataset.parts[f"{self.recipe.eval.split}_memory"], self.recipe.eval
        return {seed: draw_unlabelled(pool, self.recipe.discover, seed) for seed in args.seeds}

    def _guess(self, unlabelled: dict[int, list[Sample]]) -> dict[str, Guess]:
        """Has the MLLM guess names, by the image's digest; none where names are listed."""
        if self.listed is not None:
            return {}
        distinct = {sample.digest: sample for samples in unlabelled.values() for sample in samples}
        mined = read_mined(self.run) & distinct.keys()
        if mined:
            log.warning(
                "the ranker was tuned with the labels of %d of the %d unlabelled images: this evaluation is not "
                "vocabulary-free; use a run that was tuned on other data",
                len(mined),
                len(distinct),
            )
        guesses = guess_names(self.recipe, list(distinct.values()), self.adapter, self.replies)
        if not any(guess.names for guess in guesses.values()):
            problem = f"no name in any of {len(guesses)} replies, such as {next(iter(guesses.values())).reply!r}"
            raise UserError(f"{problem}; change discover.prompt or discover.names_per_image")
        return guesses

    def vocabularies(self, encoder: Encoder) -> tuple[list[Vocabulary], dict[str, Guess]]:
        """Makes a vocabulary for each seed, with the guesses that they come from; or the one from a file.

        Raises:
            UserError: No reply contains a name, or no name has enough votes.
        """
        if not self.uses_unlabelled:
            return [vocabulary_from_file(self.listed)], {}
        unlabelled = self._sample_unlabelled()
        guesses = self._guess(unlabelled)
        counts = {
            seed: self.listed or count_names(guesses[sample.digest].names for sample in samples)
            for seed, samples in unlabelled.items()
        }
        empty = [seed for seed, names in counts.items() if not names]
        if empty:
            raise UserError(
                f"eval.seeds: no reply about the images of seed {empty[0]} contains a name; raise discover.images"
            )
        args = with_templates(self.recipe.retriever, self.dataset)
        return choose_names(self.recipe, encoder, args, unlabelled, counts, self.adapter, self.replies), guesses

    def evaluate(self) -> dict:
        """Runs the whole evaluation and writes its files.

        Returns:
            dict: The content of ``results.json``.
        """
        recipe, split = self.recipe, self.recipe.eval.split
        queries = self.dataset.parts[split]
        encoder = self.encoder
        check_reads_texts(encoder)
        vocabularies, guesses = self.vocabularies(encoder)
        lines = list(self._predictions(encoder, queries, vocabularies))
        head = {
            "dataset": self.dataset.name,
            "split": split,
            "mode": recipe.ranker.mode,
            "k": recipe.eval.fixed_k,
            "memory": recipe.discover.memory,
            "prompt": naming_prompt(recipe) if self.listed is None else None,
            "vocabularies": [{"seed": vocabulary.seed} | vocabulary.metadata for vocabulary in vocabularies],
            "replies": dict(sorted(Counter(guess.outcome for guess in guesses.values()).items())),
            "skipped": dict(self.dataset.skipped),
            "adapter": read_json(self.adapter / "manifest.json")["adapter"],
            "encoder": encoder.id,
            "notes": [note for note in [embedded_model_note(recipe)] if note],
            "evaluation": self.evaluation,
        }
        records = [record for v in vocabularies for record in names_lines(v.votes, v.guessed, v.seed)]
        pool = self.dataset.parts.get(f"{split}_memory", [])
        with file_lock(self.out):  # so that two evaluations that end at the same time do not mix their files
            write_text(self.out / "names.jsonl", _jsonl(records))
            write_text(self.out / "guesses.jsonl", _jsonl(guess_lines(pool, self.dataset.names, guesses)))
            write_text(self.out / "predictions.jsonl", _jsonl(lines))
            return self._score(head, lines)

    def _predictions(
        self, encoder: Encoder, queries: Sequence[Sample], vocabularies: Sequence[Vocabulary]
    ) -> Iterator[dict]:
        """Yields a prediction per method, seed and image."""
        recipe, names, cache = self.recipe, self.dataset.names, Path(self.recipe.cache)
        args = with_templates(recipe.retriever, self.dataset)
        xq = embed_queries(encoder, queries, args, cache)
        labels = self.dataset.labels(recipe.eval.split)
        true = name_memory(encoder, labels, names, args, cache, texts=self.dataset.texts)
        yield from true_name_lines(queries, names, Memories(None, true).candidates("name", xq, 1, args, names))
        if self.listed is None and recipe.discover.alone:
            guesses = guess_names(recipe, queries, self.adapter, self.replies, "alone")
            yield from mllm_alone_lines(queries, names, guesses)
        candidate_sets = [
            CandidateSet(queries, retrieve_by_vocabulary(recipe, encoder, args, vocabulary, queries, xq))
            for vocabulary in vocabularies
        ]
        rankings = rank_candidate_sets(recipe, candidate_sets, METHODS, self.adapter, self.replies)
        retriever = RETRIEVERS[recipe.discover.memory]
        for index, (candidate_set, vocabulary) in enumerate(zip(candidate_sets, vocabularies, strict=True)):
            by_method = {method: rankings[method][index] for method in METHODS}
            yield from ranked_lines(candidate_set, vocabulary.seed, names, retriever, by_method)

    def _score(self, head: dict, lines: Sequence[dict]) -> dict:
        """Scores the predictions and writes ``results.json``."""
        model = self.recipe.discover.sentences
        embed = None if model == "none" else SentenceEncoder(model).embed
        scores = score_predictions(lines, head["dataset"], embed, self.recipe.eval.bootstrap)
        results = head | {"sentences": model} | scores
        write_results(self.out, results, FILES)
        log.info("wrote %s, predictions.jsonl, names.jsonl and guesses.jsonl", self.out / "results.json")
        return results

    def rescore(self) -> dict:
        """Recomputes all metrics from the predictions, and writes ``results.json``.

        Raises:
            UserError: There are no results, or a file of them is missing or damaged.
        """
        with file_lock(self.out):
            head = read_results(self.out, FILES)
            with open(self.out / "predictions.jsonl", encoding="utf-8") as lines:
                return self._score(head, [json.loads(line) for line in lines])
