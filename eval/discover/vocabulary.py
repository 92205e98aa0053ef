"""Vocabulary discovery: names guessed by the MLLM, then chosen by retrieving among the guesses and ranking."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, Sample
from data_prep.datasets.fine_grained import SUBJECTS
from data_prep.embedding.encoder import Encoder, embed_queries
from data_prep.embedding.pair import Queries
from data_prep.memory.memories import Memories, image_memory, name_memory
from data_prep.prompting.guesses import Guess, elect_names, read_guesses
from data_prep.prompting.prompts import guesses_prompt
from data_prep.settings import Recipe, RetrieverArgs
from eval.discover.choices import CandidateSet, rank_candidate_sets
from eval.ranking.batches import InferenceJob, RequestTable
from eval.ranking.rank import run_jobs
from eval.ranking.request import RankingMode, RankingRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """The names discovered from one sample of unlabelled images.

    Attributes:
        seed: Of the sample; 0 for names from a file.
        votes: By name, the number of images that chose it; 0 without a vote. A class's label is its name's position.
        guessed: By name, the number of images that it was guessed for; all guesses, including those not kept.
        images: The unlabelled images, each labelled by the kept name that it chose; none without a vote.
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


def vocabulary_from_file(names: dict[str, int]) -> Vocabulary:
    """Makes a vocabulary of names from a file, unchanged."""
    return Vocabulary(0, dict.fromkeys(names, 0), names, [], {"names": len(names)})


def naming_prompt(recipe: Recipe) -> str:
    """Returns the prompt about an unlabelled image."""
    args = recipe.discover
    subject = SUBJECTS.get(recipe.data.name, "") if args.subject is None else args.subject
    return args.prompt or guesses_prompt(args.names_per_image, subject)


def guess_names(
    recipe: Recipe, samples: Sequence[Sample], adapter: Path, out: Path, job: str = "names"
) -> dict[str, Guess]:
    """Prompts the MLLM for names of images, with greedy decoding.

    Args:
        recipe: Model and ``discover``.
        samples: Their labels are not used.
        adapter: The tuned model's.
        out: Folder of the replies.
        job: Name of the replies' file.

    Returns:
        dict[str, Guess]: By the image's digest.
    """
    args = recipe.discover
    requests = {s.digest: RankingRequest(s.digest, s.path, (), contents=(s.digest,)) for s in samples}
    mode = RankingMode("name", reply_tokens=args.reply_tokens, prompt=naming_prompt(recipe))
    log.info("%s: prompting for %d names of %d images: %s", job, args.names_per_image, len(requests), mode.prompt)
    table = RequestTable([[request] for request in requests.values()])
    inference = InferenceJob(job, args.tuned, mode, table, recipe.eval.batch_size)
    replies = run_jobs(recipe, [inference], adapter, out)[job]
    guesses = {key: read_guesses(replies[request.id].reply, args.names_per_image) for key, request in requests.items()}
    outcomes = Counter(guess.outcome for guess in guesses.values())
    log.info("%s: replies %s", job, ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items())))
    return guesses


def _retrieve_guesses(
    recipe: Recipe, encoder: Encoder, args: RetrieverArgs, samples: Sequence[Sample], names: Sequence[str]
) -> list[tuple[Candidate, ...]]:
    """Retrieves the k guesses that are nearest to each image."""
    cache = Path(recipe.cache)
    xq = embed_queries(encoder, samples, args, cache)
    memory = name_memory(encoder, range(len(names)), names, args, cache)
    return Memories(None, memory).candidates("name", xq, recipe.eval.fixed_k, args, names)


def choose_names(
    recipe: Recipe,
    encoder: Encoder,
    args: RetrieverArgs,
    unlabelled: dict[int, list[Sample]],
    guessed: dict[int, dict[str, int]],
    adapter: Path,
    out: Path,
) -> list[Vocabulary]:
    """Lets each unlabelled image vote for one of the guesses that it retrieves, and keeps names with enough votes.

    Args:
        recipe: ``eval.k`` and ``discover``.
        encoder: Embeds images and guesses.
        args: The retriever's, with templates.
        unlabelled: Unlabelled images by seed.
        guessed: By seed and name, the number of images that the name was guessed for.
        adapter: The tuned ranker's, which votes under ``discover.vote_by=ranker``.
        out: Folder of the replies.

    Raises:
        UserError: No name has ``discover.min_votes``.
    """
    vote_by = recipe.discover.vote_by
    if vote_by == "none":
        return [
            Vocabulary(seed, dict.fromkeys(counts, 0), counts, [], {"guesses": len(counts), "names": len(counts)})
            for seed, counts in guessed.items()
        ]
    candidate_sets = [
        CandidateSet(images, _retrieve_guesses(recipe, encoder, args, images, tuple(guessed[seed])))
        for seed, images in unlabelled.items()
    ]
    orders = [[[candidate.name for candidate in row] for row in of_seed.candidates] for of_seed in candidate_sets]
    if vote_by == "ranker":
        log.info("names: choosing among retrieved guesses by %s", recipe.ranker.mode)
        rankings = rank_candidate_sets(recipe, candidate_sets, {"choose": True}, adapter, out)["choose"]
        orders = [
            [[row[position] for position in ranking.order] for row, ranking in zip(rows, ranked, strict=True)]
            for rows, ranked in zip(orders, rankings, strict=True)
        ]
    return [
        _elect(recipe, seed, unlabelled[seed], guessed[seed], of_seed)
        for seed, of_seed in zip(unlabelled, orders, strict=True)
    ]


def _elect(
    recipe: Recipe, seed: int, samples: Sequence[Sample], guessed: dict[str, int], orders: list[list[str]]
) -> Vocabulary:
    """Keeps the names with enough votes, and labels the images by them."""
    min_votes = recipe.discover.min_votes
    votes, elected = elect_names(orders, min_votes)
    if not votes:
        highest = max(Counter(order[0] for order in orders).values())
        raise UserError(f"discover.min_votes={min_votes}: with seed {seed} no name has more than {highest}; lower it")
    label_of = {name: label for label, name in enumerate(votes)}
    images = [replace(s, label=label_of[name]) for s, name in zip(samples, elected, strict=True) if name is not None]
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
    xq: Queries,
) -> list[tuple[Candidate, ...]]:
    """Retrieves the candidates of the test images from a vocabulary's memory.

    Args:
        recipe: ``eval.k``, ``discover.memory`` and the cache.
        encoder: Embeds names and images.
        args: The retriever's, with templates.
        vocabulary: Names, and images where ``discover.memory`` needs them.
        queries: A query is excluded from its own search, by content.
        xq: Unit vectors of the queries, shape ``[nq, d]``, or those of each memory's encoder.
    """
    source, cache, names = recipe.discover.memory, Path(recipe.cache), vocabulary.names
    by_name = name_memory(encoder, range(len(names)), names, args, cache)
    by_image = None if source == "name" else image_memory(encoder, vocabulary.images, args, cache)
    exclude = [sample.digest for sample in queries]
    return Memories(by_image, by_name).candidates(source, xq, recipe.eval.fixed_k, args, names, exclude)
