"""The result of recognising an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_prep.core.records import Candidate


@dataclass(frozen=True)
class RankedCandidate:
    """A candidate in the ranker's order.

    Attributes:
        name: The class.
        probability: Its probability, 0 to 1; None in the modes that write a list.
        score: The retriever's score.
        retrieved: Its rank in retriever order, from 1.
        example: The class's most similar image file in the memory; None where it has none.
    """

    name: str
    probability: float | None
    score: float
    retrieved: int
    example: str | None


@dataclass(frozen=True)
class Recognition:
    """The result for one image.

    Attributes:
        names: The candidates, best first; empty where there is an error.
        probabilities: Probabilities of ``names``, summing to 1; empty in the modes that write a list.
        candidates: The candidates in retriever order, with their similarities.
        ranked: Whether the ranker was run; false where the gate skipped it.
        known: Whether the image shows one of the classes at all; None where no threshold was fitted, or where the
            threshold is on the ranker's score and the gate skipped the ranker.
        outcome: Outcome of parsing the ranker's reply.
        examples: The most similar image in the memory of each of ``candidates``; None for a class without images.
        error: Why the image has no result, with ``on_error="skip"``; else None.
    """

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    candidates: tuple[Candidate, ...]
    ranked: bool
    known: bool | None
    outcome: str
    examples: tuple[str | None, ...]
    error: str | None = None

    @classmethod
    def from_error(cls, error: str) -> Recognition:
        """Makes the result of an image that has none."""
        return cls((), (), (), False, None, "", (), error)

    @property
    def name(self) -> str | None:
        """The best candidate; None where there is an error."""
        return self.names[0] if self.names else None

    @property
    def ranking(self) -> list[RankedCandidate]:
        """The candidates, best first; with ``retriever.candidate_unit=image`` a class can occur twice."""
        indices_by_name: dict[str, list[int]] = {}
        for index, candidate in enumerate(self.candidates):
            indices_by_name.setdefault(candidate.name, []).append(index)
        order = [indices_by_name[name].pop(0) for name in self.names]
        probabilities = self.probabilities or (None,) * len(order)
        return [
            RankedCandidate(name, probability, float(self.candidates[i].score), i + 1, self.examples[i])
            for name, probability, i in zip(self.names, probabilities, order, strict=True)
        ]

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Converts the result to plain types, ready for JSON.

        Args:
            top: Maximum number of candidates; None for all.

        Returns:
            dict: ``name`` and ``probability`` of the best candidate, ``known``, ``ranked``, ``error``; and
            ``candidates``, best first, each with name, probability (None in the modes that write a list) and the
            retriever's score.
        """
        ranking = self.ranking
        return {
            "name": self.name,
            "probability": ranking[0].probability if ranking else None,
            "known": self.known,
            "ranked": None if self.error else self.ranked,
            "error": self.error,
            "candidates": [
                {"name": candidate.name, "probability": candidate.probability, "score": candidate.score}
                for candidate in ranking[:top]
            ],
        }
