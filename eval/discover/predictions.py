"""Records that a vocabulary-free evaluation writes as JSON lines: predictions, guesses and names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from data_prep.core.records import Candidate, Ranking, Sample
from data_prep.prompting.guesses import Guess
from eval.discover.choices import CandidateSet

RETRIEVERS = {"name": "clip_zero_shot", "image": "clip_knn", "fused": "clip_fused"}
"""The retriever's method by ``discover.memory``, as ``eval.run`` names it."""

NAMELESS = "unknown"
"""What ``mllm_alone`` predicts where the MLLM gave no name."""


def _line(sample: Sample, seed: int, method: str, names: Sequence[str]) -> dict:
    return {"key": sample.key, "seed": seed, "method": method, "true": names[sample.label]}


def true_name_lines(
    samples: Sequence[Sample], names: Sequence[str], candidates: Sequence[tuple[Candidate, ...]]
) -> Iterator[dict]:
    """Yields the predictions of the retriever that has the true names."""
    for sample, row in zip(samples, candidates, strict=True):
        yield _line(sample, 0, "clip_true_names", names) | {"predicted": row[0].name}


def mllm_alone_lines(samples: Sequence[Sample], names: Sequence[str], guesses: Mapping[str, Guess]) -> Iterator[dict]:
    """Yields the predictions of the MLLM without retrieval, from its guesses by digest."""
    for sample in samples:
        guess = guesses[sample.digest]
        line = {"predicted": (*guess.names, NAMELESS)[0], "outcome": guess.outcome, "reply": guess.reply}
        yield _line(sample, 0, "mllm_alone", names) | line


def ranked_lines(
    candidate_set: CandidateSet,
    seed: int,
    names: Sequence[str],
    retriever: str,
    rankings: Mapping[str, Sequence[Ranking]],
) -> Iterator[dict]:
    """Yields the predictions with one vocabulary: the retriever's, and those of each ranker.

    Args:
        candidate_set: The images and their candidates.
        seed: The vocabulary's.
        names: True names by label.
        retriever: Its method's name.
        rankings: Of each image, by method.
    """
    shown = [[{"name": c.name, "score": round(c.score, 6)} for c in row] for row in candidate_set.candidates]
    for sample, row in zip(candidate_set.samples, shown, strict=True):
        yield _line(sample, seed, retriever, names) | {"predicted": row[0]["name"], "candidates": row}
    for method, of_method in rankings.items():
        for sample, row, ranking in zip(candidate_set.samples, shown, of_method, strict=True):
            order = [row[position]["name"] for position in ranking.order]
            yield _line(sample, seed, method, names) | {
                "predicted": order[0],
                "candidates": row,
                "ranking": order,
                "probabilities": [round(p, 6) for p in ranking.probabilities],
                "outcome": ranking.outcome,
                "reply": ranking.reply,
            }


def guess_lines(pool: Sequence[Sample], names: Sequence[str], guesses: Mapping[str, Guess]) -> Iterator[dict]:
    """Yields the replies about the sampled images, with the true names for a reader only."""
    for sample in pool:
        if sample.digest in guesses:
            guess = guesses[sample.digest]
            line = {"guesses": list(guess.names), "outcome": guess.outcome, "reply": guess.reply}
            yield {"key": sample.key, "true": names[sample.label]} | line


def names_lines(votes: dict[str, int], guessed: dict[str, int], seed: int) -> list[dict]:
    """Returns the records of ``names.jsonl``, most votes first."""
    order = Counter(votes).most_common()
    return [{"name": name, "votes": count, "guessed": guessed.get(name, 0), "seed": seed} for name, count in order]
