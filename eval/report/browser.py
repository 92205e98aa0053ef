"""Data of the report page's prediction browser: images with their rankings, by kind of error and of gain."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.core.pools import available_cores
from data_prep.core.progress import progress_bar
from data_prep.core.rng import evenly_spaced
from eval.metrics.diagnostics import Case
from eval.report.reading import Evaluated
from eval.report.thumbnails import thumbnail
from eval.report.wording import describe_memory

MAX_CASES = 5000
"""Maximum number of predictions on a page; with thumbnails they take less than 20 MB."""
_MAX_RANKED = 5
"""Number of names shown of a ranking; the true class is always shown."""
_QUERY_PIXELS, _CLASS_PIXELS = 72, 48

KINDS = {
    "wrong": "Errors of retriever and ranker: the true class is among the candidates, and neither puts it first.",
    "missed": "Errors of the retriever: the true class is not among the candidates, so no ranker can be right.",
    "broken": "Errors of the ranker: the retriever's first candidate is right, the tuned ranker's is not.",
    "broken by tuning": "The untuned ranker is right, the tuned one is not.",
    "broken by fusion": "The tuned ranker is right alone, and not when it is fused with the retriever's scores.",
    "unreadable": "The reply names no candidate, so the retriever's order is kept.",
    "corrected": "The retriever's first candidate is wrong, the tuned ranker's is right.",
    "put right by tuning": "The untuned ranker is wrong, the tuned one is right.",
    "put right by fusion": "The tuned ranker is wrong alone, and right when it is fused with the retriever's scores.",
    "right": "Retriever and tuned ranker are right.",
}
"""Kinds of predictions: errors, then gains, then what both have right. A prediction may be of several."""


def kinds_of(case: Case) -> list[str]:
    """Returns the kinds of a prediction, in the order of ``KINDS``."""
    kinds, is_right = {case.status}, case.tuned[0] == case.truth
    if (case.untuned[0] == case.truth) != is_right:
        kinds.add("put right by tuning" if is_right else "broken by tuning")
    if case.fused and (case.fused[0] == case.truth) != is_right:
        kinds.add("broken by fusion" if is_right else "put right by fusion")
    if case.outcome == "unreadable":
        kinds.add("unreadable")
    return [kind for kind in KINDS if kind in kinds]


def _sample(cases: list[Case], most: int) -> list[Case]:
    """Keeps a limited number of cases, evenly spaced, in their order: first those that are not right in every row."""
    plain = [kinds_of(case) == ["right"] for case in cases]
    telling = [index for index, is_plain in enumerate(plain) if not is_plain]
    others = [index for index, is_plain in enumerate(plain) if is_plain]
    kept = [telling[index] for index in evenly_spaced(len(telling), most)]
    kept += [others[index] for index in evenly_spaced(len(others), most - len(kept))]
    return [cases[index] for index in sorted(kept)]


class _Names:
    """Numbers texts in the order in which they are first seen, so that a page has each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def _describe_case(case: Case, names: _Names) -> dict:
    """Describes a prediction for the page: what the retriever and each ranker put first, and the ranking's top."""
    ranks = {rank for rank, name in enumerate(case.tuned) if rank < _MAX_RANKED or name == case.truth}
    ranking = []
    for rank in sorted(ranks):
        name = case.tuned[rank]
        position = case.candidates.index(name)
        probability = round(case.probabilities[position], 3) if case.probabilities else None
        ranking.append([names.number(name), rank + 1, position + 1, probability])
    return {
        "truth": names.number(case.truth),
        "retrieved": names.number(case.candidates[0]),
        "untuned": names.number(case.untuned[0]),
        "fused": names.number(case.fused[0]) if case.fused else None,
        "ranking": ranking,
        "candidates": len(case.candidates),
        "kinds": [list(KINDS).index(kind) for kind in kinds_of(case)],
        "outcome": case.outcome,
        "reply": case.reply,
    }


def _thumbnails(files: list[str | None], size: int) -> list[str | None]:
    """Makes thumbnails on all cores, as Pillow lets other threads run; None where there is no file, or no image."""
    with ThreadPoolExecutor(available_cores()) as threads:
        made = threads.map(lambda file: thumbnail(Path(file), size) if file else None, files)
        return list(progress_bar("making thumbnails", made, len(files)))


def browser_data(evaluated: Evaluated, most: int = MAX_CASES) -> dict:
    """Collects the data of the page's prediction browser: the first seed of each task and number of shots.

    Args:
        evaluated: One evaluation.
        most: Maximum number of cases; of more, errors and changes are kept first, evenly spaced in every setting.

    Returns:
        dict: ``names`` with ``class_pictures``, ``keys`` with ``pictures``, ``settings`` (kind and words), ``kinds``
        (name and explanation), ``cases`` that index into them, and ``total``, the number of all cases.
    """
    first: dict[tuple[str, int], list[Case]] = {}
    for (task, shots, _), cases in evaluated.cases.items():
        first.setdefault((task, shots), cases)
    names, keys, listed = _Names(), _Names(), []
    for setting, cases in enumerate(first.values()):
        for case in _sample(cases, max(1, most // len(first))):
            listed.append({"setting": setting, "picture": keys.number(case.key)} | _describe_case(case, names))
    paths, by_class = evaluated.pictures["images"], evaluated.pictures["classes"]
    return {
        "names": list(names.numbers),
        "class_pictures": _thumbnails([by_class.get(name) for name in names.numbers], _CLASS_PIXELS),
        "keys": list(keys.numbers),
        "pictures": _thumbnails([paths.get(key) for key in keys.numbers], _QUERY_PIXELS),
        "settings": [[f"{task}-{shots}", describe_memory(task, shots, evaluated.results)] for task, shots in first],
        "kinds": list(KINDS.items()),
        "cases": listed,
        "total": sum(len(cases) for cases in first.values()),
    }
