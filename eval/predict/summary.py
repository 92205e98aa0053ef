"""The summary of a labelled file: how many images of each class, and how many without a label or a ranking, and why."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

from eval.report.console import Group, print_lines, print_table

_CLASSES_SHOWN, _REASONS_SHOWN = 20, 10


MIN_CANDIDATES = 2
"""Number of candidates that a record needs for its uncertainty, however many are written."""


def uncertainty(record: dict) -> float:
    """Computes how uncertain a label is: one minus the lead of the best candidate over the second, in probability.

    In the modes without probabilities it is the lead in the retriever's score. A label without a second candidate is
    certain.
    """
    candidates = record["candidates"]
    if len(candidates) < MIN_CANDIDATES:
        return 0.0
    key = "probability" if candidates[0]["probability"] is not None else "score"
    return 1 - (candidates[0][key] - candidates[1][key])


@dataclass
class Summary:
    """Counts of the records of a job.

    Attributes:
        keep: Number of the most uncertain records to keep.
        images: Number of records.
        classes: Records by name, of those that are known or undecided.
        errors: Records without a name, by reason.
        unknown: Records of images that show none of the classes, by the fitted threshold.
        undecided: Records for which no threshold was fitted, or its signal is missing.
        unranked: Records that the retriever labelled alone, by the gate or by the chosen method.
        notes: What to know before believing the labels.
    """

    keep: int = 0
    images: int = 0
    classes: Counter = field(default_factory=Counter)
    errors: Counter = field(default_factory=Counter)
    unknown: int = 0
    undecided: int = 0
    unranked: int = 0
    notes: list[str] = field(default_factory=list)
    _heap: list[tuple[float, int, dict]] = field(default_factory=list)

    def add(self, record: dict) -> None:
        """Counts a record; to be called in the order of the images."""
        index, self.images = self.images, self.images + 1
        if record["error"] is not None:
            self.errors[record["error"]] += 1
            return
        if record["known"] is False:
            self.unknown += 1
        else:
            self.classes[record["name"]] += 1
        self.undecided += record["known"] is None
        self.unranked += not record["ranked"]
        entry = (uncertainty(record), -index, record)
        if len(self._heap) < self.keep:
            heapq.heappush(self._heap, entry)
        elif self._heap and entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def most_uncertain(self) -> list[tuple[int, dict]]:
        """Returns the most uncertain records with their index, most uncertain first."""
        return [(-index, record) for _, index, record in sorted(self._heap, key=lambda entry: (-entry[0], -entry[1]))]


def print_summary(summary: Summary) -> None:
    """Prints counts by reason and by class."""
    outcomes = [("of a class", summary.classes.total())]
    if summary.unknown:
        outcomes.append(("of none of the classes (below the threshold)", summary.unknown))
    if summary.undecided < summary.images - summary.errors.total():
        outcomes.append(("without a decision on known or unknown", summary.undecided))
    if summary.unranked:
        outcomes.append(("labelled by the retriever alone", summary.unranked))
    outcomes += [(f"error: {reason}", count) for reason, count in summary.errors.most_common(_REASONS_SHOWN)]
    others = len(summary.errors) - _REASONS_SHOWN
    if others > 0:
        rest = sum(count for _, count in summary.errors.most_common()[_REASONS_SHOWN:])
        outcomes.append((f"error: {others} other reasons", rest))
    _print_counts(f"{summary.images} images", "outcome", outcomes)
    occurring = len(summary.classes)
    title = "1 class occurs" if occurring == 1 else f"{occurring} classes occur"
    title += f", the {_CLASSES_SHOWN} most frequent" if occurring > _CLASSES_SHOWN else ""
    _print_counts(title, "class", summary.classes.most_common(_CLASSES_SHOWN))
    print_lines(summary.notes)


def _print_counts(title: str, column: str, counts: list[tuple[str, int]]) -> None:
    print_table(title, (column, "images"), [Group(rows=[(name, str(count)) for name, count in counts])])
