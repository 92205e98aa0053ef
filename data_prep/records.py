"""The words that the packages share."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Candidate:
    """A class that the retriever proposes.

    Attributes:
        label: Index into the data set's class names.
        name: The class name.
        score: The retriever's score, higher is nearer.
    """

    label: int
    name: str
    score: float


@dataclass(frozen=True)
class RankingExample:
    """An image with its candidates, best first by the retriever.

    Attributes:
        key: Unique among the examples; the sample's key and the memory it was mined from.
        label: The true class.
        candidates: Distinct classes.
    """

    key: str
    label: int
    candidates: tuple[Candidate, ...]

    @property
    def truth(self) -> int | None:
        """The position of the true class among the candidates, or None where it is not there."""
        labels = [candidate.label for candidate in self.candidates]
        return labels.index(self.label) if self.label in labels else None


@dataclass(frozen=True)
class Ranking:
    """The ranker's answer about one example.

    Attributes:
        order: A permutation of the candidates' positions, best first.
        probabilities: Of each candidate in the retriever's order, summing to 1; empty where the
            mode gives none.
        outcome: ``ok``, ``repaired`` or ``unreadable`` (see ``data_prep.replies``).
        reply: The model's text where it wrote one.
    """

    order: tuple[int, ...]
    probabilities: tuple[float, ...] = ()
    outcome: str = "ok"
    reply: str = ""
