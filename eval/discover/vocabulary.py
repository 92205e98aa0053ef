"""Names for classes that nobody named: guessed by the MLLM, chosen by retrieval over its own guesses and ranking."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, Sample
from data_prep.datasets.fine_grained import SUBJECTS
from data_prep.embedding.encoder import Encoder, embed_images
from data_prep.memory.memories import Memories, image_memory, name_memory
from data_prep.prompting.guesses import Guess, elect_names, read_guesses
from data_prep.prompting.prompts import guesses_prompt
from data_prep.settings import Recipe, RetrieverArgs
from eval.discover.choices import CandidateSet, rank_tasks
from eval.ranking.inference import InferenceJob, answer_all
from eval.ranking.request import RankingMode, RankingRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """The names of one draw of images.

    Attributes:
        seed: Of the draw; 0 for names from a file.
        votes: Images that chose it, by name; 0 where nobody was asked. A class's label is its name's place.
        guessed: Images that it was guessed for, by name; all guesses, also those that were not kept.
        images: The images drawn, each labelled by the kept name that it chose; none where nobody was asked.
        metadata: Counts for ``results.json``.
    """

    seed: int
    votes: dict[str, int]
    guessed: dict[str, int]
    images: list[Sample]
    metadata: dict

    @property
    def names(self) -> tuple[str, ...]:
        """Names by label."""
        return tuple(self.votes)


def given_vocabulary(names: dict[str, int]) -> Vocabulary:
    """Names from a file as they are."""
    return Vocabulary(0, dict.fromkeys(names, 0), names, [], {"names": len(names)})


def naming_prompt(recipe: Recipe) -> str:
    """What the MLLM is asked about an unlabelled image."""
    args = recipe.discover
    subject = SUBJECTS.get(recipe.data.name, "") if args.subject is None else args.subject
    return args.prompt or guesses_prompt(args.names_per_image, subject)


def guess_names(
    recipe: Recipe, samples: Sequence[Sample], adapter: Path, out: Path, job: str = "names"
) -> dict[str, Guess]:
    """Asks the MLLM for names of images, greedily.

    Args:
        recipe: Model and ``discover``.
        samples: Their labels are not looked at.
        adapter: The tuned model's.
        out: Where answers go.
        job: Name of the answers' file.

    Returns:
        dict[str, Guess]: By the image's digest.
    """
    args = recipe.discover
    questions = {s.digest: RankingRequest(s.digest, s.path, (), contents=(s.digest,)) for s in samples}
    manner = RankingMode("name", reply_tokens=args.reply_tokens, prompt=naming_prompt(recipe))
    log.info("%s: asking for %d names of %d images: %s", job, args.names_per_image, len(questions), manner.prompt)
    asked = InferenceJob(job, args.tuned, manner, list(questions.values()), recipe.eval.batch_size)
    answers = answer_all([asked], recipe.ranker, adapter, recipe.trainer, out)[job]
    found = {key: read_guesses(answers[question.id].reply, args.names_per_image) for key, question in questions.items()}
    outcomes = Counter(guess.outcome for guess in found.values())
    log.info("%s: replies %s", job, ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items())))
    return found


def _retrieved(
    recipe: Recipe, encoder: Encoder, args: RetrieverArgs, samples: Sequence[Sample], names: Sequence[str]
) -> list[tuple[Candidate, ...]]:
    """The k guesses that are nearest to each image."""
    cache = Path(recipe.cache)
    xq = embed_images(encoder, samples, args, cache)
    memory = name_memory(encoder, range(len(names)), names, args, cache)
    return Memories(None, memory).candidates("name", xq, recipe.eval.k, args, names)


def choose_names(
    recipe: Recipe,
    encoder: Encoder,
    args: RetrieverArgs,
    drawn: dict[int, list[Sample]],
    guessed: dict[int, dict[str, int]],
    adapter: Path,
    out: Path,
) -> list[Vocabulary]:
    """Has each unlabelled image choose among the guesses that it retrieves, and keeps what is chosen often enough.

    Args:
        recipe: ``eval.k`` and ``discover``.
        encoder: Embeds images and guesses.
        args: The retriever's, with templates.
        drawn: Unlabelled images by seed.
        guessed: Images that a name was guessed for, by name, by seed.
        adapter: The tuned ranker's, which chooses under ``discover.vote_by=ranker``.
        out: Where answers go.

    Raises:
        UserError: No name has ``discover.min_votes``.
    """
    how, names = recipe.discover.vote_by, {seed: tuple(own) for seed, own in guessed.items()}
    if how == "none":
        return [
            Vocabulary(seed, dict.fromkeys(own, 0), guessed[seed], [], {"guesses": len(own), "names": len(own)})
            for seed, own in names.items()
        ]
    tasks = [CandidateSet(drawn[seed], _retrieved(recipe, encoder, args, drawn[seed], names[seed])) for seed in drawn]
    orders = [[[candidate.name for candidate in row] for row in task.candidates] for task in tasks]
    if how == "ranker":
        log.info("names: choosing among retrieved guesses by %s", recipe.ranker.mode)
        rankings = rank_tasks(recipe, tasks, {"choose": True}, adapter, out)["choose"]
        orders = [
            [[row[place] for place in ranking.order] for row, ranking in zip(own, ranked, strict=True)]
            for own, ranked in zip(orders, rankings, strict=True)
        ]
    return [_kept(recipe, seed, drawn[seed], guessed[seed], own) for seed, own in zip(drawn, orders, strict=True)]


def _kept(
    recipe: Recipe, seed: int, samples: Sequence[Sample], guessed: dict[str, int], orders: list[list[str]]
) -> Vocabulary:
    least = recipe.discover.min_votes
    votes, own = elect_names(orders, least)
    if not votes:
        most = max(Counter(order[0] for order in orders).values())
        raise UserError(f"discover.min_votes={least}: no name has as many with seed {seed}; the most is {most}")
    label_of = {name: label for label, name in enumerate(votes)}
    images = [replace(s, label=label_of[name]) for s, name in zip(samples, own, strict=True) if name is not None]
    metadata = {
        "images": len(samples),
        "guesses": len(guessed),
        "names": len(votes),
        "images_without_name": len(samples) - len(images),
    }
    log.info("names: seed %d keeps %d of %d", seed, len(votes), len(guessed))
    return Vocabulary(seed, votes, guessed, images, metadata)


def retrieve_by_vocabulary(
    recipe: Recipe,
    encoder: Encoder,
    args: RetrieverArgs,
    vocabulary: Vocabulary,
    queries: Sequence[Sample],
    xq: np.ndarray,
) -> list[tuple[Candidate, ...]]:
    """The candidates of the test images from the memory that a vocabulary makes.

    Args:
        recipe: ``eval.k``, ``discover.memory`` and the cache.
        encoder: Embeds names and images.
        args: The retriever's, with templates.
        vocabulary: Names, and images where ``discover.memory`` needs them.
        queries: A query's own picture does not count in the memory.
        xq: Unit vectors of the queries, shape ``[nq, d]``.
    """
    source, cache, names = recipe.discover.memory, Path(recipe.cache), vocabulary.names
    by_name = name_memory(encoder, range(len(names)), names, args, cache)
    by_image = None if source == "name" else image_memory(encoder, vocabulary.images, args, cache)
    exclude = [sample.digest for sample in queries]
    return Memories(by_image, by_name).candidates(source, xq, recipe.eval.k, args, names, exclude)
