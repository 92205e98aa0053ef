"""Reads the files of evaluations."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.results_file import RESULTS, read_results
from eval.metrics.diagnostics import Case
from eval.metrics.summary import CHOICE
from eval.report.predictions import PREDICTIONS, read_predictions, relative_paths

FILES = (PREDICTIONS, "pictures.json")
"""Files next to ``results.json``, which lists them with their checksums."""


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, as ``eval.run`` wrote it into a folder.

    Attributes:
        name: Distinguishes runs on a page.
        results: ``results.json``.
        cases: By setting: (task, shots, seed).
        pictures: ``pictures.json``: ``images``, image files by key; ``classes``, one by class name; and ``root``, the
            folder that the paths in predictions are relative to.
    """

    name: str
    results: dict
    cases: dict[tuple[str, int, int], list[Case]]
    pictures: dict

    @property
    def paths(self) -> dict[str, str]:
        """Image files by key, relative to ``root``."""
        return relative_paths(self.pictures["images"], self.pictures.get("root"))[1]

    @property
    def all_cases(self) -> list[Case]:
        """The cases of all settings."""
        return [case for cases in self.cases.values() for case in cases]


class CaseCollector:
    """Joins the rankers' predictions of each image, by setting; the fused ones come after the others."""

    def __init__(self) -> None:
        self._cases: dict[tuple[str, int, int], dict[str, Case]] = defaultdict(dict)
        self._waiting: dict[tuple, dict] = {}  # for the other ranker's prediction of the same image

    def add(self, record: dict) -> None:
        """Adds one prediction, as ``read_predictions`` yields it."""
        if record["method"] not in ("rar", "rar_untuned", "rar_fused") or record["task"] in ("unknown", CHOICE):
            return
        setting, key = (record["task"], record["shots"], record["seed"]), record["key"]
        if record["method"] == "rar_fused":
            self._cases[setting][key] = replace(self._cases[setting][key], fused=tuple(record["ranking"]))
            return
        other = self._waiting.pop((*setting, key), None)
        if other is None:
            self._waiting[*setting, key] = record
        else:
            self._cases[setting][key] = _make_case({part["method"]: part for part in (record, other)})

    def pass_through(self, records: Iterable[dict]) -> Iterator[dict]:
        """Adds predictions as they are taken, for instance by the file's writer, and yields them."""
        for record in records:
            self.add(record)
            yield record

    def cases(self) -> dict[tuple[str, int, int], list[Case]]:
        """Returns the cases by setting."""
        return {setting: list(cases.values()) for setting, cases in self._cases.items()}


def group_cases(predictions: Iterable[dict]) -> dict[tuple[str, int, int], list[Case]]:
    """Joins the rankers' predictions of each image, by setting; the fused ones come after the others."""
    collector = CaseCollector()
    for record in predictions:
        collector.add(record)
    return collector.cases()


def _make_case(by_method: dict[str, dict]) -> Case:
    tuned = by_method["rar"]
    return Case(
        key=tuned["key"],
        truth=tuned["truth"],
        candidates=tuple(c["name"] for c in tuned["candidates"]),
        similarities=tuple(c["score"] for c in tuned["candidates"]),
        untuned=tuple(by_method["rar_untuned"]["ranking"]),
        tuned=tuple(tuned["ranking"]),
        probabilities=tuple(tuned["probabilities"]),
        outcome=tuned["outcome"],
        reply=tuned["reply"],
    )


def _has_evaluation(folder: Path) -> bool:
    return (folder / RESULTS).is_file() and "by_place" in read_results(folder)


def _name(folder: Path) -> str:
    """Returns a name that any page can show, whatever the encoding of the folder's."""
    folder = folder.absolute()
    name = f"{folder.parent.parent.name} {folder.name}" if folder.parent.name == "eval" else folder.name
    return os.fsencode(name).decode(errors="replace")


def read_evaluations(run: Path) -> list[tuple[Path, Evaluated]]:
    """Reads the evaluations of a run, or a single one.

    Args:
        run: A run's folder, or one of the folders in its ``eval``, which may be of several data sets.

    Raises:
        UserError: There is no evaluation, or a file of one is damaged.
    """
    # The folder of one evaluation, of several data sets' evaluations, or of the run.
    patterns = (("",), ("*/",), ("eval/*/", "eval/*/*/"))
    files = [[path for start in starts for path in sorted(run.glob(f"{start}{PREDICTIONS}"))] for starts in patterns]
    folders = [path.parent for path in next(filter(None, files), []) if _has_evaluation(path.parent)]
    if not folders:
        raise UserError(
            f"{run}: no evaluation there (no {FILES[0]} with {RESULTS}); run python -m eval.run --ckpt {run} first"
        )
    return [(folder, read_evaluation(folder)) for folder in folders]


def read_evaluation(folder: Path, collected: CaseCollector | None = None) -> Evaluated:
    """Reads one evaluation.

    Args:
        folder: Its folder.
        collected: Its predictions, where they were collected as they were written.

    Raises:
        UserError: A file is damaged.
    """
    results = read_results(folder, FILES)
    cases = collected.cases() if collected else group_cases(read_predictions(folder))
    return Evaluated(_name(folder), results, cases, read_json(folder / "pictures.json"))
