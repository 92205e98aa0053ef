"""What a ranker is asked to answer: the candidates in the order wanted of it."""

from __future__ import annotations

from data_prep.core.errors import UserError
from data_prep.core.records import NONE_OF_THESE, Candidate, RankingExample


def truth_first(example: RankingExample) -> list[Candidate]:
    """The right answer, the others in retriever order (the paper's). A class that stands twice moves as a whole.

    Raises:
        UserError: No candidate is right.
    """
    if example.truth is None:
        raise UserError(
            f"{example.key}: no right answer among the candidates to put first; mine with mining.none_of_these=true, "
            "or ask for mining.target=graded"
        )
    right = example.candidates[example.truth].label
    return sorted(example.candidates, key=lambda candidate: candidate.label != right)


def truth_only(example: RankingExample) -> list[Candidate]:
    """The right answer alone."""
    return truth_first(example)[:1]


def graded_order(example: RankingExample) -> list[Candidate]:
    """By likeness to the true class, which is most like itself; ``none of these`` last unless it is right.

    Candidates that are alike keep the retriever's order.

    Raises:
        UserError: An example without likenesses, as of shards that were imported.
    """
    right = None if example.truth is None else example.candidates[example.truth].label

    def place(candidate: Candidate) -> tuple[bool, bool, float]:
        if candidate.likeness is None:
            raise UserError(f"{example.key}: no likenesses to grade by; use mining.target=truth_first")
        return candidate.label != right, candidate.label == NONE_OF_THESE, -candidate.likeness

    return sorted(example.candidates, key=place)


_ORDERS = {"truth_first": truth_first, "truth_only": truth_only, "graded": graded_order}


def target_order(retrieved: RankingExample, target: str) -> list[Candidate]:
    """The candidates in the order wanted of the ranker, best first.

    Args:
        retrieved: Candidates in retriever order.
        target: ``mining.target``.
    """
    return _ORDERS[target](retrieved)


def target_names(retrieved: RankingExample, target: str) -> list[str]:
    """The names of ``target_order``."""
    return [candidate.name for candidate in target_order(retrieved, target)]
