"""Reads the files of evaluations."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.results_file import RESULTS, read_results
from eval.metrics.diagnostics import Case

FILES = ("predictions.jsonl", "pictures.json")
"""Files next to ``results.json``, which lists them with their checksums."""


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, as ``eval.run`` wrote it into a folder.

    Attributes:
        name: Distinguishes runs on a page.
        results: ``results.json``.
        cases: By setting: (task, shots, seed).
        pictures: ``pictures.json``: image files by key, and one per class name.
    """

    name: str
    results: dict
    cases: dict[tuple[str, int, int], list[Case]]
    pictures: dict

    @property
    def all_cases(self) -> list[Case]:
        """The cases of all settings."""
        return [case for cases in self.cases.values() for case in cases]


def group_cases(predictions: Iterable[str]) -> dict[tuple[str, int, int], list[Case]]:
    """Groups the lines of ``predictions.jsonl`` by setting and image."""
    by_setting: dict[tuple, dict[str, dict[str, dict]]] = defaultdict(lambda: defaultdict(dict))
    for line in map(json.loads, predictions):
        if line["method"] not in ("rar", "rar_untuned") or line["task"] == "unknown":
            continue
        by_setting[line["task"], line["shots"], line["seed"]][line["key"]][line["method"]] = line
    return {setting: [_make_case(lines) for lines in by_image.values()] for setting, by_image in by_setting.items()}


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
    files = [
        [path for start in starts for path in sorted(run.glob(f"{start}predictions.jsonl"))] for starts in patterns
    ]
    folders = [path.parent for path in next(filter(None, files), []) if _has_evaluation(path.parent)]
    if not folders:
        raise UserError(
            f"{run}: no evaluation there (no {FILES[0]} with {RESULTS}); run python -m eval.run --ckpt {run} first"
        )
    evaluations = []
    for folder in folders:
        results = read_results(folder, FILES)
        with open(folder / "predictions.jsonl", encoding="utf-8") as lines:
            cases = group_cases(lines)
        evaluations.append((folder, Evaluated(_name(folder), results, cases, read_json(folder / "pictures.json"))))
    return evaluations
