"""Several data sets' evaluations as one: their rows, the average over them, and the paper's figures beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.core.files import write_text
from data_prep.core.results_file import read_results, write_results
from eval.metrics.published import FEW_SHOT_GAIN, FEW_SHOT_ORDER, WHOLE_TRAINING_SET, published
from eval.metrics.summary import AVERAGE, average_rows, summarise
from eval.report.page import render_page
from eval.report.reading import FILES, read_evaluations
from eval.report.results import read_figures


def combine(folder: Path, names: list[str]) -> dict:
    """Makes one table of the evaluations in a folder, from their files alone.

    Args:
        folder: Holds a folder for each data set, as ``eval.run`` wrote it.
        names: The data sets.

    Returns:
        dict: ``datasets``; ``rows``, and ``summary`` with a ``dataset`` in each part, of every data set and of
        ``average``; ``published``; and ``leaks`` and ``skipped`` by data set. It is also written to ``results.json``,
        with the page ``report.html``.
    """
    found = {name: read_results(folder / name, FILES) for name in names}
    first = found[names[0]]
    hits = [read_figures(folder / name, own).hits() for name, own in found.items()]
    average = [{"dataset": AVERAGE} | part for part in summarise(hits, first["bootstrap"])]
    rows = [row for own in found.values() for row in own["rows"]]
    results = {"dataset": ", ".join(names), "datasets": names}
    results |= {key: first[key] for key in ("split", "mode", "k", "bootstrap", "adapter", "encoder")}
    results["rows"] = rows + average_rows([own["rows"] for own in found.values()])
    results["summary"] = [{"dataset": name} | part for name, own in found.items() for part in own["summary"]] + average
    results["published"] = [row for own in found.values() for row in own["published"]]
    results["published"] += _published_averages(names, average) if first["split"] == "test" else []
    results |= {key: {name: own[key] for name, own in found.items()} for key in ("leaks", "skipped")}
    write_results(folder, results)
    write_text(folder / "report.html", render_page([read_evaluations(folder / name)[0][1] for name in names], results))
    return results


def _beside(part: dict, method: str, figure: str, own: float, known: float, ranker: str = "") -> dict:
    head = {"task": part["task"], "dataset": AVERAGE, "method": method, "shots": part["shots"], "figure": figure}
    more = {"ranker": ranker} if ranker else {}
    return head | more | {"measured": own, "published": known, "difference": own - known}


def _published_averages(names: list[str], average: list[dict]) -> list[dict]:
    """The paper's averages over the same data sets; its gains and whole training sets where these are its eleven."""
    eleven = set(names) == set(FEW_SHOT_ORDER) - {AVERAGE}
    rows = []
    for part in average:
        means = {method: 100 * own["mean"] for method, own in part["methods"].items()}
        for method, mean in means.items():
            known = [published(part["task"], name, method, part["shots"]) for name in names]
            if all(known):
                rows.append(_beside(part, method, "top1", mean, float(np.mean([one["top1"] for one in known]))))
        if eleven and part["task"] == "few_shot" and part["shots"] in FEW_SHOT_GAIN:
            gain = means["rar"] - means["clip_knn"]
            rows.append(_beside(part, "rar", "gain over clip_knn", gain, FEW_SHOT_GAIN[part["shots"]]))
        if eleven and part["task"] == "whole_set":
            rows += [_beside(part, "rar", "top1", means["rar"], one, name) for name, one in WHOLE_TRAINING_SET.items()]
    return rows
