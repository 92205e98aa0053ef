"""Computes all metrics of ``results.json`` from predictions only: without models, images or torch.

Both the evaluation itself and ``eval.run --rescore`` use this code, prediction by prediction.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.records import Ranking
from data_prep.core.results_file import RESULTS
from data_prep.settings import POINTWISE
from data_prep.settings.trust import check_outside
from eval.calibration.choice import Choice
from eval.calibration.fusion import gate_curve, stack_similarities
from eval.calibration.open_set import Refusal, refusal_metrics
from eval.metrics.accuracy import staged_accuracy, top1_by_position
from eval.metrics.further import compute_metrics, load_metrics
from eval.metrics.published import add_published
from eval.metrics.reliability import reliability
from eval.metrics.summary import ALONE, CHOICE, RETRIEVERS, HitSet, summarise
from eval.report.predictions import PREDICTIONS, not_a_prediction, read_predictions

METRICS = ("rows", "summary", "by_place", "gate", "calibration", "unknown", "published")
"""Keys of ``results.json`` that are computed from predictions; the others are metadata."""

_RANKERS = ("rar_untuned", "rar")


@dataclass
class _Column:
    """One method's predictions with one memory, an entry per image."""

    classes: list[str] = field(default_factory=list)
    top1: list[bool] = field(default_factory=list)
    top5: list[bool] = field(default_factory=list)
    recalled: list[bool] = field(default_factory=list)
    retriever_top1: list[bool] = field(default_factory=list)
    tied: list[bool] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    images: Any = field(default_factory=hashlib.sha256)
    predictions: list[Mapping[str, Any]] = field(default_factory=list)  # only where further metrics need them

    def add(self, line: Mapping[str, Any], k: int) -> None:
        truth, ranking = line["truth"], line["ranking"]
        self.images.update(f"{line['key']}\n".encode())
        self.classes.append(truth)
        self.top1.append(truth == ranking[0])
        self.top5.append(truth in ranking[:5])
        self.recalled.append(truth in ranking[:k])
        if "candidates" in line:
            # The first of the highest scores: in multiple choice the candidates' order says nothing.
            nearest = max(line["candidates"], key=itemgetter("score"))
            self.retriever_top1.append(truth == nearest["name"])
            self.outcomes[line["outcome"]] += 1
        if line.get("probabilities"):
            self.tied.append(line["probabilities"].count(max(line["probabilities"])) > 1)


class MetricsAccumulator:
    """Accumulates predictions one by one, in the order of the file.

    Args:
        metadata: The keys of ``results.json`` that are not metrics: ``dataset``, ``split``, ``mode``, ``k`` and
            ``bootstrap``; the ``choice`` by kind of memory; and, if any, the fitted ``refusal`` and the further
            ``metrics`` (``eval.metrics``).

    Raises:
        UserError: A further metric cannot be loaded.
    """

    def __init__(self, metadata: Mapping[str, Any]):
        self.metadata, self.k = metadata, metadata["k"]
        self.further = load_metrics(metadata.get("metrics", ()))
        choices = {kind: Choice.from_dict(values) for kind, values in metadata.get("choice", {}).items()}
        self.fusions = {kind: choice.fusion for kind, choice in choices.items() if choice.fusion}
        self.k_by_kind = {kind: choice.k for kind, choice in choices.items()}
        self._columns: dict[tuple[str, int, int, str], _Column] = {}
        self._positions: dict[str, dict[str, list[tuple[int, int]]]] = {
            method: defaultdict(list) for method in _RANKERS
        }
        self._pooled: dict[str, list[tuple[Ranking, list[list[float]], int | None]]] = defaultdict(list)
        self._signals: list[dict[str, float]] = []
        self._known: list[bool] = []

    def add(self, line: Mapping[str, Any]) -> None:
        """Adds one prediction, as ``read_predictions`` yields it."""
        if line["task"] == "unknown":
            self._signals.append(line["signals"])
            self._known.append(line["known"])
            return
        key = (line["task"], line["shots"], line["seed"], line["method"])
        k = self._k_of(line["task"], line["shots"])
        column = self._columns.setdefault(key, _Column())
        column.add(line, k)
        if self.further:
            column.predictions.append(line)
        if line["method"] in _RANKERS and line["task"] != CHOICE:
            self._add_position(line)

    def _k_of(self, task: str, shots: int) -> int:
        """Returns the number of candidates with a memory."""
        if task == CHOICE:
            return self.metadata["choices"]
        return self.k_by_kind.get(f"{task}-{shots}", self.k)

    def pass_through(self, records: Iterable[dict]) -> Iterator[dict]:
        """Adds predictions as they are taken, for instance by the file's writer, and yields them."""
        for record in records:
            self.add(record)
            yield record

    def _add_position(self, line: Mapping[str, Any]) -> None:
        """Records the positions of the true and of the chosen class, and the input of the gate."""
        names = [candidate["name"] for candidate in line["candidates"]]
        truth = names.index(line["truth"]) if line["truth"] in names else None
        if truth is not None:
            positions = self._positions[line["method"]]
            positions["retrieved"].append((truth, names.index(line["ranking"][0])))
            for prompt in line.get("asked", ()):
                positions["shown"].append((prompt["shown"].index(truth), prompt["shown"].index(prompt["first"])))
        kind = f"{line['task']}-{line['shots']}"
        if line["method"] == "rar" and kind in self.fusions:
            rows = line["similarities"]
            if any(None in pair for pair in rows):
                rows = [[nan if value is None else value for value in pair] for pair in rows]
            self._pooled[kind].append((Ranking((), tuple(line["probabilities"])), rows, truth))

    def hits(self) -> HitSet:
        """Returns top-1 hits per image, and the images' classes.

        Raises:
            UserError: Methods or memories were evaluated on different images.
        """
        columns = {key: column for key, column in self._columns.items() if key[3] != ALONE}
        if not columns:
            raise UserError(f"{self.metadata['dataset']}: no predictions")
        (first_key, first), *others = columns.items()
        for key, column in others:
            if column.images.digest() != first.images.digest():
                raise UserError(f"predictions of {key} and of {first_key} are not of the same images in the same order")
        label_of = {name: label for label, name in enumerate(dict.fromkeys(first.classes))}
        classes = np.array([label_of[name] for name in first.classes])
        return {key: np.array(column.top1, float) for key, column in columns.items()}, classes

    def rows(self) -> list[dict]:
        """Computes a row per memory and method; accuracies as shares, 0 to 1."""
        rows = []
        for (task, shots, seed, method), column in self._columns.items():
            mode = self.metadata["mode"]
            if method == ALONE and mode not in POINTWISE:
                mode = "likelihood"
            mode = "" if method in RETRIEVERS else mode
            head = {"task": task, "dataset": self.metadata["dataset"], "shots": shots, "seed": seed, "method": method}
            shares = {"top1": column.top1, "top5": column.top5, "recall_at_k": column.recalled}
            row = head | {"mode": mode, "k": self._k_of(task, shots), "n": len(column.top1)}
            row |= {name: float(np.mean(hits)) for name, hits in shares.items()}
            if column.retriever_top1:
                row |= staged_accuracy(column.retriever_top1, column.top1, column.recalled, column.outcomes)
            if column.tied:
                row["tied"] = float(np.mean(column.tied))
            row |= compute_metrics(self.further, column.predictions, f"{method} with {task}-{shots}, seed {seed}")
            rows.append(row)
        return rows

    def _gates(self) -> dict[str, dict]:
        """Computes the gate's curve, and the share of images that it passes to the ranker, by kind of memory."""
        gates = {}
        for kind, pooled in self._pooled.items():
            fusion, (rankings, rows, truths) = self.fusions[kind], zip(*pooled, strict=True)
            similarities = stack_similarities(rows)
            share = float(fusion.needs_ranker(similarities).mean())
            curve = gate_curve(fusion, rankings, similarities, truths)
            gates[kind] = {"by": fusion.gate, "share_asked": share, "curve": curve}
        return gates

    def _calibration(self) -> dict[str, dict]:
        """Computes reliability before and after calibration, of the ranker alone and fused, by kind of memory.

        The gated ranking has calibrated probabilities alone.
        """
        calibration = {}
        for kind, pooled in self._pooled.items():
            fusion, (rankings, rows, truths) = self.fusions[kind], zip(*pooled, strict=True)
            similarities = stack_similarities(rows)
            uncalibrated, fused = replace(fusion, temperature=1.0), fusion.fuse(rankings, similarities)
            pairs = zip(fused, fusion.retriever_rankings(similarities), strict=True)
            is_ranked = fusion.needs_ranker(similarities).tolist()
            gated = [pair[0] if ranked else pair[1] for pair, ranked in zip(pairs, is_ranked, strict=True)]
            tables = {
                "rar": {"before": rankings, "after": fusion.calibrate(rankings)},
                "rar_fused": {"before": uncalibrated.fuse(rankings, similarities), "after": fused},
                "rar_gated": {"after": gated},
            }
            calibration[kind] = {
                method: {stage: _reliability(table, truths) for stage, table in stages.items()}
                for method, stages in tables.items()
            }
        return calibration

    def results(self) -> dict:
        """Returns the content of ``results.json``: the metadata and all metrics.

        Raises:
            UserError: As ``hits``.
        """
        summary = summarise([self.hits()], self.metadata["bootstrap"])
        results = {**self.metadata, "rows": self.rows(), "summary": summary}
        results["by_place"] = {
            method: {order: top1_by_position(*zip(*pairs, strict=True), self.k) for order, pairs in by_order.items()}
            for method, by_order in self._positions.items()
        }
        if self.fusions:
            results["gate"] = self._gates()
            results["calibration"] = self._calibration()
        if "refusal" in self.metadata:
            results["unknown"] = refusal_metrics(Refusal(**self.metadata["refusal"]), self._signals, self._known)
        return results | {"published": published_for(self.metadata, summary)}


def _reliability(rankings: Sequence[Ranking], truths: Sequence[int | None]) -> dict:
    """Computes the reliability of top-1 probabilities, over all images and over those with the truth among them."""
    confidences = np.array([max(ranking.probabilities) for ranking in rankings])
    best = [ranking.probabilities.index(max(ranking.probabilities)) for ranking in rankings]
    correct = np.array([index == truth for index, truth in zip(best, truths, strict=True)])
    hits = np.array([truth is not None for truth in truths])
    given_hit = reliability(confidences[hits], correct[hits])["ece"] if hits.any() else None
    return reliability(confidences, correct) | {"ece_given_hit": given_hit}


def published_for(metadata: Mapping[str, Any], summary: list[dict]) -> list[dict]:
    """Compares with the paper's results for the same data set, shots and method, on the test split."""
    measured = [
        {"task": part["task"], "dataset": part.get("dataset", metadata.get("dataset")), "shots": part["shots"]}
        | {"method": method, "figures": {"top1": 100 * metrics["mean"]}}
        for part in summary
        for method, metrics in part["methods"].items()
    ]
    return add_published(measured) if metadata["split"] == "test" else []


def read_metrics(folder: Path, metadata: Mapping[str, Any]) -> MetricsAccumulator:
    """Reads the predictions of an evaluation's folder.

    Raises:
        UserError: The file is missing, a line is not a prediction, or the evaluation comes from another machine and
            has a metric that is code.
    """
    check_outside(folder / RESULTS, {"eval.metrics": list(metadata.get("metrics", ()))}, set())
    metrics = MetricsAccumulator(metadata)
    for number, record in enumerate(read_predictions(folder), 2):  # the first line is the header
        try:
            metrics.add(record)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise not_a_prediction(folder / PREDICTIONS, number, error) from None
    return metrics
