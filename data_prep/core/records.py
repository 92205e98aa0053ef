"""The words that the packages share."""

from __future__ import annotations

from dataclasses import dataclass

NONE_OF_THESE = -1
"""Label of the candidate that stands for a class that is not among the others."""


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        key: Unique in its data set, without dots (WebDataset cuts keys at the first dot).
        path: Where the file lies.
        label: Index into the data set's class names.
        digest: SHA-256 of the file's bytes; equal digests are the same picture.
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
        score: The retriever's score, higher is nearer.
        likeness: Cosine similarity of the class's name to the true class's, for graded targets; None where unknown.
    """

    label: int
    name: str
    score: float
    likeness: float | None = None


@dataclass(frozen=True)
class RankingExample:
    """An image with its candidates, best first by the retriever.

    Attributes:
        key: Unique among the examples; the sample's key and the memory it was mined from.
        label: The true class.
        candidates: Distinct classes; with ``mining.candidate_unit=image`` a class can stand twice.
    """

    key: str
    label: int
    candidates: tuple[Candidate, ...]

    @property
    def truth(self) -> int | None:
        """The position of the right answer among the candidates, or None where there is none.

        That is the true class, or where it is missing, ``none of these``.
        """
        labels = [candidate.label for candidate in self.candidates]
        return next((labels.index(label) for label in (self.label, NONE_OF_THESE) if label in labels), None)


@dataclass(frozen=True)
class Ranking:
    """The ranker's answer about one example.

    Attributes:
        order: A permutation of the candidates' positions, best first.
        probabilities: Of each candidate in the retriever's order, summing to 1; empty where the
            mode gives none.
        outcome: ``ok``, ``repaired`` or ``unreadable`` (see ``data_prep.prompting.replies``).
        reply: The model's text where it wrote one.
    """

    order: tuple[int, ...]
    probabilities: tuple[float, ...] = ()
    outcome: str = "ok"
    reply: str = ""
