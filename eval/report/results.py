"""Every figure of ``results.json`` from predictions alone: without models, images or torch.

The evaluation itself and ``eval.run --rescore`` take this one way, prediction by prediction.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.records import Ranking
from eval.calibration.fusion import Fusion, gate_curve
from eval.calibration.open_set import Refusal, refusal_metrics
from eval.metrics.accuracy import staged_accuracy, top1_by_position
from eval.metrics.published import add_published
from eval.metrics.summary import ALONE, RETRIEVERS, HitSet, summarise

FIGURES = ("rows", "summary", "by_place", "gate", "unknown", "published")
"""The keys of ``results.json`` that come from predictions; the others are facts of the evaluation."""

_PLACED = ("rar_untuned", "rar")


@dataclass
class _Column:
    """One method's predictions with one memory: what its row counts, an entry an image."""

    classes: list[str] = field(default_factory=list)
    top1: list[bool] = field(default_factory=list)
    top5: list[bool] = field(default_factory=list)
    found: list[bool] = field(default_factory=list)
    first: list[bool] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    images: Any = field(default_factory=hashlib.sha256)

    def add(self, line: Mapping[str, Any], k: int) -> None:
        truth, ranking = line["truth"], line["ranking"]
        self.images.update(f"{line['key']}\n".encode())
        self.classes.append(truth)
        self.top1.append(truth == ranking[0])
        self.top5.append(truth in ranking[:5])
        self.found.append(truth in ranking[:k])
        if "candidates" in line:
            self.first.append(truth == line["candidates"][0]["name"])
            self.outcomes[line["outcome"]] += 1


class Metrics:
    """Takes predictions one by one, in the order of the file.

    Args:
        metadata: What of ``results.json`` is no figure: ``dataset``, ``split``, ``mode``, ``k`` and ``bootstrap``; the
            fitted ``fusion`` and ``refusal``, where there are.
    """

    def __init__(self, metadata: Mapping[str, Any]):
        self.metadata, self.k = metadata, metadata["k"]
        self.fusions = {kind: Fusion(**values) for kind, values in metadata.get("fusion", {}).items()}
        self._columns: dict[tuple[str, int, int, str], _Column] = {}
        self._places: dict[str, dict[str, list[tuple[int, int]]]] = {method: defaultdict(list) for method in _PLACED}
        self._pooled: dict[str, list[tuple[Ranking, list[float], int | None]]] = defaultdict(list)
        self._signals: list[dict[str, float]] = []
        self._known: list[bool] = []

    def add(self, line: Mapping[str, Any]) -> None:
        """Counts one prediction, a line of ``predictions.jsonl``."""
        if line["task"] == "unknown":
            self._signals.append(line["signals"])
            self._known.append(line["known"])
            return
        key = (line["task"], line["shots"], line["seed"], line["method"])
        self._columns.setdefault(key, _Column()).add(line, self.k)
        if line["method"] in _PLACED:
            self._place(line)

    def line(self, record: dict) -> str:
        """Counts a prediction, and gives its line in the file."""
        self.add(record)
        return json.dumps(record, ensure_ascii=False) + "\n"

    def _place(self, line: Mapping[str, Any]) -> None:
        """Notes where the truth stood and what was chosen, and what a gate needs."""
        names = [candidate["name"] for candidate in line["candidates"]]
        truth = names.index(line["truth"]) if line["truth"] in names else None
        if truth is not None:
            places = self._places[line["method"]]
            places["retrieved"].append((truth, names.index(line["ranking"][0])))
            for asked in line.get("asked", ()):
                places["shown"].append((asked["shown"].index(truth), asked["shown"].index(asked["first"])))
        kind = f"{line['task']}-{line['shots']}"
        if line["method"] == "rar" and kind in self.fusions:
            scores = [candidate["score"] for candidate in line["candidates"]]
            self._pooled[kind].append((Ranking((), tuple(line["probabilities"])), scores, truth))

    def hits(self) -> HitSet:
        """Top-1 hits per image, and the images' classes.

        Raises:
            UserError: Methods or memories were asked about different images.
        """
        whole = {key: column for key, column in self._columns.items() if key[3] != ALONE}
        if not whole:
            raise UserError(f"{self.metadata['dataset']}: no predictions")
        (first, one), *others = whole.items()
        for key, column in others:
            if column.images.digest() != one.images.digest():
                raise UserError(f"predictions of {key} and of {first} are not of the same images in the same order")
        numbers = {name: number for number, name in enumerate(dict.fromkeys(one.classes))}
        classes = np.array([numbers[name] for name in one.classes])
        return {key: np.array(column.top1, float) for key, column in whole.items()}, classes

    def rows(self) -> list[dict]:
        """A row per memory and method; accuracies as shares, 0 to 1."""
        rows = []
        for (task, shots, seed, method), column in self._columns.items():
            mode = "" if method in RETRIEVERS else "likelihood" if method == ALONE else self.metadata["mode"]
            head = {"task": task, "dataset": self.metadata["dataset"], "shots": shots, "seed": seed, "method": method}
            shares = {"top1": column.top1, "top5": column.top5, "recall_at_k": column.found}
            row = head | {"mode": mode, "k": self.k, "n": len(column.top1)}
            row |= {name: float(np.mean(hits)) for name, hits in shares.items()}
            if column.first:
                row |= staged_accuracy(column.first, column.top1, column.found, column.outcomes)
            rows.append(row)
        return rows

    def _gates(self) -> dict[str, dict]:
        """The gate's curve, and the share of images that it asks about, by kind of memory."""
        gates = {}
        for kind, pooled in self._pooled.items():
            fusion, (rankings, scores, truths) = self.fusions[kind], zip(*pooled, strict=True)
            asked = float(np.mean([fusion.asks(own) for own in scores]))
            curve = gate_curve(fusion, rankings, scores, truths)
            gates[kind] = {"by": fusion.gate, "share_asked": asked, "curve": curve}
        return gates

    def results(self) -> dict:
        """What ``results.json`` holds: the facts, and every figure.

        Raises:
            UserError: As ``hits``.
        """
        summary = summarise([self.hits()], self.metadata["bootstrap"])
        results = {**self.metadata, "rows": self.rows(), "summary": summary}
        results["by_place"] = {
            method: {what: top1_by_position(*zip(*pairs, strict=True), self.k) for what, pairs in own.items()}
            for method, own in self._places.items()
        }
        if self.fusions:
            results["gate"] = self._gates()
        if "refusal" in self.metadata:
            results["unknown"] = refusal_metrics(Refusal(**self.metadata["refusal"]), self._signals, self._known)
        return results | {"published": published_for(self.metadata, summary)}


def published_for(metadata: Mapping[str, Any], summary: list[dict]) -> list[dict]:
    """The paper's figures beside measured ones of the same data set, shots and method, on the test split."""
    measured = [
        {"task": part["task"], "dataset": part.get("dataset", metadata.get("dataset")), "shots": part["shots"]}
        | {"method": method, "figures": {"top1": 100 * own["mean"]}}
        for part in summary
        for method, own in part["methods"].items()
    ]
    return add_published(measured) if metadata["split"] == "test" else []


def read_figures(folder: Path, metadata: Mapping[str, Any]) -> Metrics:
    """Counts the predictions of an evaluation's folder.

    Raises:
        UserError: ``predictions.jsonl`` is missing, or a line is no prediction.
    """
    path = folder / "predictions.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file; run python -m eval.run first, which writes it")
    metrics = Metrics(metadata)
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                metrics.add(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                told = f"{type(error).__name__}: {error}"
                raise UserError(f"{path}, line {number}: no prediction of eval.run ({told}); run it again") from None
    return metrics
