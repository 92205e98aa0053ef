"""Recomputes metrics from the predictions of evaluations, without loading a model or importing torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock
from data_prep.core.results_file import RESULTS, read_results, write_results
from eval.report.combined import combine
from eval.report.page import write_pages
from eval.report.reading import FILES
from eval.report.results import METRICS, read_metrics

log = logging.getLogger(__name__)


def rescore(folder: Path, metrics: Sequence[str] | None = None) -> dict:
    """Recomputes all metrics of an evaluation, and writes ``results.json`` and the page.

    Args:
        folder: With predictions, and with ``results.json`` for the metadata (data set, models, settings,
            leaks); or the folder of several data sets' evaluations.
        metrics: Further metrics, as ``eval.metrics``; None: those that it was evaluated with.

    Raises:
        UserError: A file is missing or damaged.
    """
    old = read_results(folder)
    if "datasets" in old:
        for name in old["datasets"]:
            rescore(folder / name, metrics)
        results = combine(folder, old["datasets"], old.get("evaluation", {}))
    else:
        with file_lock(folder):
            metadata = {key: value for key, value in read_results(folder, FILES).items() if key not in METRICS}
            if metrics is not None:
                metadata["metrics"] = list(metrics)
            results = read_metrics(folder, metadata).results()
            write_results(folder, results, FILES)
            write_pages(folder)
    changed = sorted(key for key in results if results[key] != old.get(key))
    log.info("%s: %s", folder, f"changed: {', '.join(changed)}" if changed else "the same metrics as before")
    return results


def find_evaluations(run: Path) -> list[Path]:
    """Finds the folders of a run's evaluations with predictions; an evaluation's folder is returned itself.

    Raises:
        UserError: There is no evaluation, or its results are damaged.
    """
    if (run / RESULTS).is_file():
        return [run]
    by_folder = {path.parent: read_results(path.parent) for path in sorted(run.glob(f"eval/*/{RESULTS}"))}
    folders = [folder for folder, results in by_folder.items() if "by_place" in results or "datasets" in results]
    if not folders:
        raise UserError(f"{run}: no evaluation there with predictions; run python -m eval.run --ckpt {run} first")
    return folders
