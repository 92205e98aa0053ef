"""Combines the evaluations of several data sets: their rows, the average, and the comparison with the paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.core.files import write_text
from data_prep.core.results_file import read_results, write_results
from eval.metrics.base_to_new import summarise_halves
from eval.metrics.further import columns_of
from eval.metrics.published import FEW_SHOT_GAIN, FEW_SHOT_ORDER, FULL_TRAIN_MEMORY, published
from eval.metrics.summary import AVERAGE, HitSet, average_rows, summarise
from eval.report.index import link_index
from eval.report.page import render_page
from eval.report.reading import FILES, read_evaluations
from eval.report.results import read_metrics


def combine(folder: Path, names: list[str], evaluation: dict) -> dict:
    """Makes one table of the evaluations in a folder, from their files only.

    Args:
        folder: With a folder for each data set, as ``eval.run`` wrote it.
        names: Of the data sets.
        evaluation: What distinguishes it from other evaluations of the run; with ``base_to_new``, the names are of
            halves of data sets' classes, ``NAME-base`` and ``NAME-new`` in turn.

    Returns:
        dict: ``datasets``; ``rows``, and ``summary`` with a ``dataset`` in each part, of every data set and of
        ``average``; ``published``; ``evaluation``; and by data set ``leaks``, ``skipped``, ``notes`` and
        ``shots_held``, and ``choice`` and ``calibration`` where there are any. With ``base_to_new`` the part of
        ``average`` is the harmonic mean H, and ``base_to_new`` has both halves and H of every data set. It is also
        written to ``results.json``, and the page to ``report.html``.
    """
    by_set = {name: read_results(folder / name, FILES) for name in names}
    first = by_set[names[0]]
    hits = [read_metrics(folder / name, of_set | {"metrics": []}).hits() for name, of_set in by_set.items()]
    results = {"dataset": ", ".join(names), "datasets": names}
    results |= {key: first[key] for key in ("split", "mode", "k", "bootstrap", "adapter", "encoder")}
    metrics = [
        metric for metric in first.get("metrics", ()) if all(metric in s.get("metrics", ()) for s in by_set.values())
    ]
    results |= {"metrics": metrics} if metrics else {}
    results |= {"choices": first["choices"]} if "choices" in first else {}
    results["rows"] = [row for of_set in by_set.values() for row in of_set["rows"]]
    results["summary"] = [{"dataset": name} | part for name, of_set in by_set.items() for part in of_set["summary"]]
    results["published"] = [row for of_set in by_set.values() for row in of_set["published"]]
    if evaluation.get("base_to_new"):
        results["base_to_new"] = _join_halves(names, hits, first["bootstrap"])
        results["summary"] += [part for part in results["base_to_new"] if part["dataset"] == AVERAGE]
    else:
        average = [{"dataset": AVERAGE} | part for part in summarise(hits, first["bootstrap"])]
        results["rows"] += average_rows([of_set["rows"] for of_set in by_set.values()], columns_of(results))
        results["summary"] += average
        results["published"] += _published_averages(names, average) if first["split"] == "test" else []
    results["evaluation"] = evaluation
    for key in ("leaks", "skipped", "notes", "shots_held", "choice", "calibration"):
        values = {name: of_set[key] for name, of_set in by_set.items() if key in of_set}
        results |= {key: values} if values else {}
    write_results(folder, results)
    evaluations = [read_evaluations(folder / name)[0][1] for name in names]
    write_text(folder / "report.html", render_page(evaluations, results, index=link_index(folder)))
    return results


def _join_halves(names: list[str], hits: list[HitSet], resamples: int) -> list[dict]:
    """Computes base, new and H of every data set, and of their average, from hits on base and new classes in turn."""
    base, new = hits[::2], hits[1::2]
    parts = [
        {"dataset": name.removesuffix("-base")} | part
        for name, *pair in zip(names[::2], base, new, strict=True)
        for part in summarise_halves(pair[:1], pair[1:], resamples)
    ]
    return parts + [{"dataset": AVERAGE} | part for part in summarise_halves(base, new, resamples)]


def _compare(part: dict, method: str, metric: str, measured: float, reported: float, ranker: str = "") -> dict:
    """Makes a row of ``published``, of the average over data sets."""
    head = {"task": part["task"], "dataset": AVERAGE, "method": method, "shots": part["shots"], "figure": metric}
    head |= {"ranker": ranker} if ranker else {}
    return head | {"measured": measured, "published": reported, "difference": measured - reported}


def _published_averages(names: list[str], average: list[dict]) -> list[dict]:
    """Compares with the paper's averages over the same data sets.

    Its gains, and its results with the full training set as memory, are of its eleven data sets only.
    """
    all_eleven = set(names) == set(FEW_SHOT_ORDER) - {AVERAGE}
    rows = []
    for part in average:
        means = {method: 100 * metrics["mean"] for method, metrics in part["methods"].items()}
        for method, mean in means.items():
            reported = [published(part["task"], name, method, part["shots"]) for name in names]
            if all(reported):
                average_reported = float(np.mean([of_set["top1"] for of_set in reported]))
                rows.append(_compare(part, method, "top1", mean, average_reported))
        if all_eleven and part["task"] == "few_shot" and part["shots"] in FEW_SHOT_GAIN:
            gain = means["rar"] - means["clip_knn"]
            rows.append(_compare(part, "rar", "gain over clip_knn", gain, FEW_SHOT_GAIN[part["shots"]]))
        if all_eleven and part["task"] == "whole_set":
            for ranker, top1 in FULL_TRAIN_MEMORY.items():
                rows.append(_compare(part, "rar", "top1", means["rar"], top1, ranker))
    return rows
