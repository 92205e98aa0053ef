"""One vocabulary-free evaluation: draws images, finds names, recognises with them, scores, and writes its files."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock, read_json, write_text
from data_prep.core.records import Sample
from data_prep.core.results_file import read_results, write_results
from data_prep.datasets import Dataset, read_dataset
from data_prep.datasets.unlabelled import draw_unlabelled
from data_prep.embedding.encoder import Encoder, embed_images, load_encoder
from data_prep.leakage.contamination import check_not_mined, read_mined
from data_prep.memory.memories import Memories, name_memory, with_templates
from data_prep.prompting.guesses import Guess, count_names
from data_prep.settings import Recipe, check
from data_prep.settings.loading import load_saved_recipe
from eval.clustering.sentences import SentenceEncoder, find_sentence_model
from eval.discover.choices import CandidateSet, rank_tasks
from eval.discover.metrics import score_predictions
from eval.discover.name_files import names_lines, read_vocabulary
from eval.discover.predictions import RETRIEVERS, alone_lines, guess_lines, ranked_lines, true_name_lines
from eval.discover.vocabulary import (
    Vocabulary,
    choose_names,
    given_vocabulary,
    guess_names,
    naming_prompt,
    retrieve_by_vocabulary,
)
from rar_train.engine.run_folder import find_adapter

log = logging.getLogger(__name__)

METHODS = {"rar_untuned": False, "rar": True}
"""Rankers by name, and whether each is the tuned one."""

FILES = ("names.jsonl", "guesses.jsonl", "predictions.jsonl")
"""What is written beside ``results.json``, which names them with their checksums."""


def _jsonl(records: Iterable[dict]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@dataclass(frozen=True)
class Naming:
    """An evaluation of a run.

    Attributes:
        recipe: The run's, with the command's settings.
        adapter: The tuned model's.
        run: The run's folder.
        given: Names from a file, by how often they stand there; None to have them guessed.
        choose: Whether unlabelled images choose among the given names.
        out: Where the files go.
    """

    recipe: Recipe
    adapter: Path
    run: Path
    given: dict[str, int] | None
    choose: bool
    out: Path

    @classmethod
    def of_run(cls, ckpt: Path, settings: list[str], names: Path | None = None, choose: bool = False) -> Naming:
        """Reads the recipe of a run, and checks what can be checked before models are loaded.

        Args:
            ckpt: A run's folder or one of its checkpoints.
            settings: ``key.sub=value``.
            names: Others' names.
            choose: Whether unlabelled images choose among them.

        Raises:
            UserError: There is no run, no sentence model, no names, or settings that do not go together.
        """
        adapter, run = find_adapter(ckpt)
        recipe = load_saved_recipe(run / "recipe.yaml", settings)
        discover = recipe.discover
        check(names is not None or not choose, "--choose: it is for names from a file; add --names FILE")
        alone = names is not None and not choose
        said = f"discover.memory={discover.memory}: --names alone has no images that chose them; add --choose"
        check(not alone or discover.memory == "name", said)
        check(
            not recipe.eval.show_exemplars, "eval.show_exemplars=true: names from no labelled images have no examples"
        )
        if discover.sentences != "none":
            find_sentence_model(discover.sentences)
        folder = f"{recipe.data.name}-{recipe.eval.split}-{recipe.ranker.mode}"
        folder += f"-{names.stem}{'-chosen' if choose else ''}" if names else ""
        given = read_vocabulary(names) if names else None
        return cls(recipe, adapter, run, given, choose, run / "discover" / folder)

    @property
    def asks(self) -> bool:
        """Whether unlabelled images take part."""
        return self.given is None or self.choose

    @cached_property
    def dataset(self) -> Dataset:
        """The evaluated split, and its training split where images are drawn from it."""
        split = self.recipe.eval.split
        parts = (f"{split}_memory", split) if self.asks else (split,)
        dataset = read_dataset(self.recipe.data, Path(self.recipe.cache), parts)
        check_not_mined(self.run, dataset.parts[split], split)
        return dataset

    def _drawn(self) -> dict[int, list[Sample]]:
        """Unlabelled images by seed."""
        pool, args = self.dataset.parts[f"{self.recipe.eval.split}_memory"], self.recipe.eval
        return {seed: draw_unlabelled(pool, self.recipe.discover, seed) for seed in args.seeds}

    def _guessed(self, drawn: dict[int, list[Sample]]) -> dict[str, Guess]:
        """What the MLLM guesses, by the image's digest; nothing where names are given."""
        if self.given is not None:
            return {}
        distinct = {sample.digest: sample for own in drawn.values() for sample in own}
        mined = read_mined(self.run) & distinct.keys()
        if mined:
            log.warning(
                "the ranker was tuned with the labels of %d of the %d unlabelled images: what follows is not "
                "vocabulary-free; take a run that was tuned on other data",
                len(mined),
                len(distinct),
            )
        found = guess_names(self.recipe, list(distinct.values()), self.adapter, self.out)
        if not any(guess.names for guess in found.values()):
            said = f"no name in any of {len(found)} replies, such as {next(iter(found.values())).reply!r}"
            raise UserError(f"{said}; change discover.prompt or discover.names_per_image")
        return found

    def vocabularies(self, encoder: Encoder) -> tuple[list[Vocabulary], dict[str, Guess]]:
        """A vocabulary for each seed, and the guesses that they come from; or the one that was given.

        Raises:
            UserError: No reply holds a name, or no name has votes enough.
        """
        if not self.asks:
            return [given_vocabulary(self.given)], {}
        drawn = self._drawn()
        guesses = self._guessed(drawn)
        counts = {
            seed: self.given or count_names(guesses[sample.digest].names for sample in own)
            for seed, own in drawn.items()
        }
        empty = [seed for seed, own in counts.items() if not own]
        if empty:
            raise UserError(f"eval.seeds: no reply about the images of seed {empty[0]} holds a name; draw more images")
        args = with_templates(self.recipe.retriever, self.dataset)
        return choose_names(self.recipe, encoder, args, drawn, counts, self.adapter, self.out), guesses

    def evaluate(self) -> dict:
        """Runs the whole evaluation and writes its files.

        Returns:
            dict: What ``results.json`` holds.
        """
        recipe, split = self.recipe, self.recipe.eval.split
        queries = self.dataset.parts[split]
        encoder = load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))
        vocabularies, guesses = self.vocabularies(encoder)
        lines = list(self._predictions(encoder, queries, vocabularies))
        head = {
            "dataset": self.dataset.name,
            "split": split,
            "mode": recipe.ranker.mode,
            "k": recipe.eval.k,
            "memory": recipe.discover.memory,
            "prompt": naming_prompt(recipe) if self.given is None else None,
            "vocabularies": [{"seed": own.seed} | own.metadata for own in vocabularies],
            "replies": dict(sorted(Counter(guess.outcome for guess in guesses.values()).items())),
            "skipped": dict(self.dataset.skipped),
            "adapter": read_json(self.adapter / "manifest.json")["adapter"],
            "encoder": encoder.id,
        }
        records = [line for own in vocabularies for line in names_lines(own.votes, own.guessed, own.seed)]
        pool = self.dataset.parts.get(f"{split}_memory", [])
        with file_lock(self.out):  # or files of two evaluations that end at once would be taken for one's
            write_text(self.out / "names.jsonl", _jsonl(records))
            write_text(self.out / "guesses.jsonl", _jsonl(guess_lines(pool, self.dataset.names, guesses)))
            write_text(self.out / "predictions.jsonl", _jsonl(lines))
            return self._scored(head, lines)

    def _predictions(
        self, encoder: Encoder, queries: Sequence[Sample], vocabularies: Sequence[Vocabulary]
    ) -> Iterator[dict]:
        """A prediction per method, seed and image."""
        recipe, names, cache = self.recipe, self.dataset.names, Path(self.recipe.cache)
        args = with_templates(recipe.retriever, self.dataset)
        xq = embed_images(encoder, queries, args, cache)
        labels = self.dataset.labels(recipe.eval.split)
        true = name_memory(encoder, labels, names, args, cache, texts=self.dataset.texts)
        yield from true_name_lines(queries, names, Memories(None, true).candidates("name", xq, 1, args, names))
        if self.given is None and recipe.discover.alone:
            alone = guess_names(recipe, queries, self.adapter, self.out, "alone")
            yield from alone_lines(queries, names, alone)
        tasks = [
            CandidateSet(queries, retrieve_by_vocabulary(recipe, encoder, args, own, queries, xq))
            for own in vocabularies
        ]
        rankings = rank_tasks(recipe, tasks, METHODS, self.adapter, self.out)
        retriever = RETRIEVERS[recipe.discover.memory]
        for number, (task, vocabulary) in enumerate(zip(tasks, vocabularies, strict=True)):
            own = {method: rankings[method][number] for method in METHODS}
            yield from ranked_lines(task, vocabulary.seed, names, retriever, own)

    def _scored(self, head: dict, lines: Sequence[dict]) -> dict:
        model = self.recipe.discover.sentences
        embed = None if model == "none" else SentenceEncoder(model).embed
        found = score_predictions(lines, head["dataset"], embed, self.recipe.eval.bootstrap)
        results = head | {"sentences": model} | found
        write_results(self.out, results, FILES)
        log.info("wrote %s, predictions.jsonl, names.jsonl and guesses.jsonl", self.out / "results.json")
        return results

    def rescore(self) -> dict:
        """Computes every figure anew from the predictions, and writes ``results.json``.

        Raises:
            UserError: There are no results, or a file of theirs is missing or damaged.
        """
        with file_lock(self.out):
            head = read_results(self.out, FILES)
            with open(self.out / "predictions.jsonl", encoding="utf-8") as lines:
                return self._scored(head, [json.loads(line) for line in lines])
