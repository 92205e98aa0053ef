"""One vocabulary-free evaluation: draws images, finds names, recognises with them, scores, and writes its files."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from data_prep.datasets import Dataset, read_dataset
from data_prep.encoder import Encoder, embed_images, load_encoder
from data_prep.errors import UserError
from data_prep.files import fingerprint, read_json, write_json, write_text
from data_prep.guesses import Guess, counted
from data_prep.held_out import check_not_mined, read_mined
from data_prep.memories import Memories, name_memory, prompted
from data_prep.recipe import load_saved_recipe
from data_prep.records import Candidate, Ranking, Sample
from data_prep.settings import Recipe, check
from data_prep.unlabelled import draw_unlabelled
from eval.choices import Task, rank_tasks
from eval.discovery import (
    Vocabulary,
    choose_names,
    given_vocabulary,
    guess_names,
    prompt_of,
    recognised,
)
from eval.name_figures import scored
from eval.name_files import names_lines, read_vocabulary
from eval.sentences import SentenceEncoder, find_sentence_model
from rar_train.adapter import find_adapter

log = logging.getLogger(__name__)

RETRIEVERS = {"name": "clip_zero_shot", "image": "clip_knn", "fused": "clip_fused"}
"""The retriever's row by ``discover.memory``, as ``eval.run`` names it."""

METHODS = {"rar_untuned": False, "rar": True}


def _jsonl(records: Sequence[dict]) -> str:
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
        check(not recipe.eval.examples, "eval.examples=true: names from no labelled images have no examples")
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

    def _answers(self, *depends: object) -> Path:
        """A folder for answers that depend on the models and on more."""
        manifest, ranker = read_json(self.adapter / "manifest.json"), self.recipe.ranker
        models = [manifest["adapter"], manifest["base_model"], ranker.model, ranker.dtype, ranker.quantize]
        return self.out / f"answers-{fingerprint([*models, ranker.max_pixels, self.recipe.eval.batch_size, *depends])}"

    @property
    def _ranking_answers(self) -> Path:
        args = self.recipe.eval
        return self._answers(self.recipe.ranker.mode, args.structured, args.reply_tokens)

    def _drawn(self) -> dict[int, list[Sample]]:
        """Unlabelled images by seed."""
        pool, args = self.dataset.parts[f"{self.recipe.eval.split}_memory"], self.recipe.eval
        return {seed: draw_unlabelled(pool, self.recipe.discover, seed) for seed in args.seeds}

    def _guessed(self, drawn: dict[int, list[Sample]]) -> dict[str, Guess]:
        """What the MLLM guesses, by the image's digest; nothing where names are given."""
        if self.given is not None:
            return {}
        discover, distinct = self.recipe.discover, {s.digest: s for own in drawn.values() for s in own}
        mined = read_mined(self.run) & distinct.keys()
        if mined:
            log.warning(
                "the ranker was tuned with the labels of %d of the %d unlabelled images: what follows is not "
                "vocabulary-free; take a run that was tuned on other data",
                len(mined),
                len(distinct),
            )
        folder = self._answers(discover.tuned, prompt_of(self.recipe), discover.reply_tokens)
        return guess_names(self.recipe, list(distinct.values()), self.adapter, folder)

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
            seed: self.given or counted(guesses[sample.digest].names for sample in own) for seed, own in drawn.items()
        }
        empty = [seed for seed, own in counts.items() if not own]
        if empty:
            raise UserError(f"eval.seeds: no reply about the images of seed {empty[0]} holds a name; draw more images")
        args = prompted(self.recipe.retriever, self.dataset)
        return choose_names(self.recipe, encoder, args, drawn, counts, self.adapter, self._ranking_answers), guesses

    def evaluate(self) -> dict:
        """Runs the whole evaluation and writes its files.

        Returns:
            dict: What ``results.json`` holds.
        """
        recipe, split = self.recipe, self.recipe.eval.split
        queries = self.dataset.parts[split]
        encoder = load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))
        vocabularies, guesses = self.vocabularies(encoder)
        args = prompted(recipe.retriever, self.dataset)
        xq = embed_images(encoder, queries, args, Path(recipe.cache))
        tasks = [Task(queries, recognised(recipe, encoder, args, own, queries, xq)) for own in vocabularies]
        rankings = rank_tasks(recipe, tasks, METHODS, self.adapter, self._ranking_answers)
        lines = list(self._lines(vocabularies, tasks, rankings, self._by_true_name(encoder, queries, xq)))
        head = {
            "dataset": self.dataset.name,
            "split": split,
            "mode": recipe.ranker.mode,
            "k": recipe.eval.k,
            "memory": recipe.discover.memory,
            "prompt": prompt_of(recipe) if self.given is None else None,
            "vocabularies": [{"seed": own.seed} | own.facts for own in vocabularies],
            "replies": dict(sorted(Counter(guess.outcome for guess in guesses.values()).items())),
            "skipped": dict(self.dataset.skipped),
            "adapter": read_json(self.adapter / "manifest.json")["adapter"],
            "encoder": encoder.id,
        }
        records = [line for own in vocabularies for line in names_lines(own.votes, own.guessed, own.seed)]
        write_text(self.out / "names.jsonl", _jsonl(records))
        write_text(self.out / "guesses.jsonl", self._guess_lines(guesses))
        write_text(self.out / "predictions.jsonl", _jsonl(lines))
        return self._scored(head, lines)

    def _by_true_name(self, encoder: Encoder, queries: Sequence[Sample], xq: np.ndarray) -> list[tuple[Candidate, ...]]:
        """What the retriever says to whom the true names are told: what its encoder is good for here."""
        names, args = self.dataset.names, prompted(self.recipe.retriever, self.dataset)
        memory = name_memory(encoder, self.dataset.labels(self.recipe.eval.split), names, args, Path(self.recipe.cache))
        return Memories(None, memory).candidates("name", xq, 1, args, names)

    def _lines(
        self,
        vocabularies: Sequence[Vocabulary],
        tasks: Sequence[Task],
        rankings: dict[str, list[list[Ranking]]],
        told: Sequence[tuple[Candidate, ...]],
    ) -> Iterator[dict]:
        """A prediction per image, method and seed."""
        names = self.dataset.names
        for sample, row in zip(tasks[0].samples, told, strict=True):
            head = {"key": sample.key, "seed": 0, "method": "clip_true_names", "true": names[sample.label]}
            yield head | {"predicted": row[0].name}
        for number, (vocabulary, task) in enumerate(zip(vocabularies, tasks, strict=True)):
            for method in (RETRIEVERS[self.recipe.discover.memory], *METHODS):
                own = rankings[method][number] if method in METHODS else None
                for place, (sample, row) in enumerate(zip(task.samples, task.candidates, strict=True)):
                    head = {"key": sample.key, "seed": vocabulary.seed, "method": method, "true": names[sample.label]}
                    ranking = own[place] if own else Ranking(tuple(range(len(row))))
                    line = {
                        "predicted": row[ranking.order[0]].name,
                        "candidates": [{"name": c.name, "score": round(c.score, 6)} for c in row],
                    }
                    if own:
                        line["ranking"] = [row[at].name for at in ranking.order]
                        line["probabilities"] = [round(p, 6) for p in ranking.probabilities]
                        line |= {"outcome": ranking.outcome, "reply": ranking.reply}
                    yield head | line

    def _guess_lines(self, guesses: dict[str, Guess]) -> str:
        """The replies, with the true names beside: for a reader alone."""
        pool = self.dataset.parts.get(f"{self.recipe.eval.split}_memory", [])
        return _jsonl(
            [
                {
                    "key": sample.key,
                    "true": self.dataset.names[sample.label],
                    "guesses": list(guesses[sample.digest].names),
                    "outcome": guesses[sample.digest].outcome,
                    "reply": guesses[sample.digest].reply,
                }
                for sample in pool
                if sample.digest in guesses
            ]
        )

    def _scored(self, head: dict, lines: Sequence[dict]) -> dict:
        model = self.recipe.discover.sentences
        embed = None if model == "none" else SentenceEncoder(model).embed
        found = scored(lines, head["dataset"], embed, self.recipe.eval.bootstrap)
        results = head | {"sentences": model} | found
        write_json(self.out / "results.json", results)
        log.info("wrote %s, predictions.jsonl, names.jsonl and guesses.jsonl", self.out / "results.json")
        return results

    def rescore(self) -> dict:
        """Computes every figure anew from the predictions, and writes ``results.json``.

        Raises:
            UserError: There are no predictions.
        """
        head, predictions = read_json(self.out / "results.json"), self.out / "predictions.jsonl"
        if not predictions.is_file():
            raise UserError(f"{predictions}: no such file; run the command without --rescore first")
        return self._scored(head, [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()])
