"""Reads back what evaluations wrote."""

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
"""What an evaluation writes beside ``results.json``, which names them with their checksums."""


@dataclass(frozen=True)
class Evaluated:
    """What ``eval.run`` wrote into a folder.

    Attributes:
        name: To tell runs apart.
        results: ``results.json``.
        cases: By setting: (task, shots, seed).
        pictures: ``pictures.json``: image files by key, and one by class name.
    """

    name: str
    results: dict
    cases: dict[tuple[str, int, int], list[Case]]
    pictures: dict

    @property
    def shown(self) -> list[Case]:
        """All cases of all settings."""
        return [case for cases in self.cases.values() for case in cases]


def group_cases(predictions: Iterable[str]) -> dict[tuple[str, int, int], list[Case]]:
    """Takes the lines of ``predictions.jsonl`` together by setting and image."""
    by_setting: dict[tuple, dict[str, dict[str, dict]]] = defaultdict(lambda: defaultdict(dict))
    for line in map(json.loads, predictions):
        if line["method"] not in ("rar", "rar_untuned") or line["task"] == "unknown":
            continue
        by_setting[line["task"], line["shots"], line["seed"]][line["key"]][line["method"]] = line
    return {setting: [_case(by_method) for by_method in own.values()] for setting, own in by_setting.items()}


def _case(by_method: dict[str, dict]) -> Case:
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


def _holds_evaluation(folder: Path) -> bool:
    return (folder / RESULTS).is_file() and "by_place" in read_results(folder)


def _name(folder: Path) -> str:
    """A name that any page can hold, whatever the encoding of the folder's."""
    name = f"{folder.parent.parent.name} {folder.name}" if folder.parent.name == "eval" else folder.name
    return os.fsencode(name).decode(errors="replace")


def read_evaluations(run: Path) -> list[tuple[Path, Evaluated]]:
    """Reads the evaluations of a run, or the one in a folder of its own.

    Args:
        run: A run's folder, or one of the folders in its ``eval``; one of several data sets holds theirs.

    Raises:
        UserError: There is none, or a file of it is damaged.
    """
    # The evaluation's own folder, that of several data sets, or the run's.
    patterns = (("",), ("*/",), ("eval/*/", "eval/*/*/"))
    files = [[path for start in own for path in sorted(run.glob(f"{start}predictions.jsonl"))] for own in patterns]
    folders = [path.parent for path in next(filter(None, files), []) if _holds_evaluation(path.parent)]
    if not folders:
        raise UserError(
            f"{run}: no evaluation there (no {FILES[0]} with {RESULTS}); run python -m eval.run --ckpt {run} first"
        )
    found = []
    for folder in folders:
        results = read_results(folder, FILES)
        with open(folder / "predictions.jsonl", encoding="utf-8") as lines:
            cases = group_cases(lines)
        found.append((folder, Evaluated(_name(folder), results, cases, read_json(folder / "pictures.json"))))
    return found
