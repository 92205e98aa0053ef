"""Records shared by the packages: samples, candidates, ranking examples and rankings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class SpecialLabel(IntEnum):
    """Labels that are no class's index."""

    NONE_OF_THESE = -1
    """Label of the candidate that represents any class not among the others."""
    UNLABELLED = -2
    """Label of an image whose class is unknown or must remain hidden."""


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        key: Unique in its data set, without dots (WebDataset cuts keys at the first dot).
        path: Path of the file.
        label: Index into the data set's class names.
        digest: SHA-256 of the file's bytes; equal digests mean the same image.
    """

    key: str
    path: str
    label: int
    digest: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A class that the retriever proposes.

    Attributes:
        label: Index into the data set's class names.
        name: The class name.
        score: The retriever's score; higher is more similar.
        name_similarity: Cosine similarity of class name and true class name, for graded targets; None if unknown.
        description: What the class looks like, for prompts; empty if they show names alone.
    """

    label: int
    name: str
    score: float
    name_similarity: float | None = None
    description: str = ""


@dataclass(frozen=True)
class RankingExample:
    """An image with its candidates, best first by the retriever.

    Attributes:
        key: Unique among the examples: the sample's key and the memory that it was mined from.
        label: The true class.
        candidates: Distinct classes; with ``mining.candidate_unit=image`` a class can occur twice.
    """

    key: str
    label: int
    candidates: tuple[Candidate, ...]

    @property
    def descriptions(self) -> tuple[str, ...]:
        """The candidates' descriptions, empty for those without one; no element where no candidate has one."""
        texts = tuple(candidate.description for candidate in self.candidates)
        return texts if any(texts) else ()

    @property
    def truth(self) -> int | None:
        """The position of the right answer among the candidates, or None if there is none.

        The right answer is the true class or, if that is missing, ``none of these``.
        """
        labels = [candidate.label for candidate in self.candidates]
        return next(
            (labels.index(label) for label in (self.label, SpecialLabel.NONE_OF_THESE) if label in labels), None
        )


@dataclass(frozen=True)
class Ranking:
    """The ranker's answer about one example.

    Attributes:
        order: A permutation of the candidates' positions, best first.
        probabilities: Probability of each candidate, in the retriever's order, summing to 1; empty if the mode gives
            none.
        outcome: ``ok``, ``repaired`` or ``unreadable`` (see ``data_prep.prompting.replies``).
        reply: The text that the model wrote, if any.
    """

    order: tuple[int, ...]
    probabilities: tuple[float, ...] = ()
    outcome: str = "ok"
    reply: str = ""
