"""Training targets of the ranker: the order in which it should list the candidates."""

from __future__ import annotations

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, RankingExample, SpecialLabel


def truth_first(example: RankingExample) -> list[Candidate]:
    """Returns the right answer, then the others in retriever order (as in the paper); duplicates of a class move along.

    Raises:
        UserError: No candidate is right.
    """
    if example.truth is None:
        raise UserError(
            f"{example.key}: no right answer among the candidates to put first; mine with mining.none_of_these=true, "
            "or set mining.target=graded"
        )
    right = example.candidates[example.truth].label
    return sorted(example.candidates, key=lambda candidate: candidate.label != right)


def truth_only(example: RankingExample) -> list[Candidate]:
    """Returns the right answer alone."""
    return truth_first(example)[:1]


def graded_order(example: RankingExample) -> list[Candidate]:
    """Sorts the candidates by the similarity of their names to the true class's, which comes first itself.

    ``none of these`` is last unless it is right. Equally similar candidates keep the retriever's order.

    Raises:
        UserError: The example has no similarities, as in imported shards.
    """
    right = None if example.truth is None else example.candidates[example.truth].label

    def sort_key(candidate: Candidate) -> tuple[bool, bool, float]:
        if candidate.name_similarity is None:
            raise UserError(f"{example.key}: no name similarities to grade by; set mining.target=truth_first")
        return candidate.label != right, candidate.label == SpecialLabel.NONE_OF_THESE, -candidate.name_similarity

    return sorted(example.candidates, key=sort_key)


_ORDERS = {"truth_first": truth_first, "truth_only": truth_only, "graded": graded_order}


def target_order(retrieved: RankingExample, target: str) -> list[Candidate]:
    """Returns the candidates in the order that the ranker should give, best first.

    Args:
        retrieved: An example with its candidates in retriever order.
        target: ``mining.target``.
    """
    return _ORDERS[target](retrieved)


def target_names(retrieved: RankingExample, target: str) -> list[str]:
    """Returns the candidate names in the order of ``target_order``."""
    return [candidate.name for candidate in target_order(retrieved, target)]
