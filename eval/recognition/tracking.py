"""An evaluation in Weights & Biases: its table, its curve over shots, and pictures with their rankings.

A run of its own rather than the fit's resumed: a fit is evaluated many times (modes, splits, shots, checkpoints), which
would overwrite each other's figures there, and an agent of a sweep gives every evaluation a run. It is linked to the
fit's by the group, which is the fit's run id, and by ``fit`` in its config.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data_prep.core.images import open_image
from data_prep.core.rng import evenly_spaced
from data_prep.settings import Recipe
from eval.metrics.summary import GAINS
from eval.report.reading import Evaluated
from rar_train.engine.tracking import close_run, run_id, wandb_settings

_ROW = (
    "task", "shots", "seed", "method", "mode", "k", "n", "top1", "top5", "recall_at_k", "top1_given_hit", "corrected",
    "broken",
)  # fmt: skip
_RANKING = ("picture", "task", "shots", "truth", "retrieved", "ranked", "probability", "status", "outcome", "reply")


def plot_points(results: dict) -> list[dict[str, float]]:
    """What is plotted: for each task and number of shots, the means over seeds.

    Returns:
        list[dict[str, float]]: ``shots``, and as ``TASK/NAME`` each method's top-1 and its standard deviation
        (``_sd``), ``recall_at_k``, and what the tuned ranker gains; shares, not per cent.
    """
    recalls = defaultdict(list)
    for row in results["rows"]:
        if row["method"] == "rar":
            recalls[row["task"], row["shots"]].append(row["recall_at_k"])
    points = []
    for part in results["summary"]:
        named = {method: own["mean"] for method, own in part["methods"].items()}
        named |= {f"{method}_sd": own["sd"] for method, own in part["methods"].items()}
        named |= {gain: part[gain]["mean"] for gain in GAINS if gain in part}
        named["recall_at_k"] = float(np.mean(recalls[part["task"], part["shots"]]))
        points.append({"shots": part["shots"]} | {f"{part['task']}/{name}": value for name, value in named.items()})
    return points


def ranking_rows(evaluated: Evaluated, most: int) -> list[list]:
    """Rows of the table of rankings: evenly spaced images under the first seed of each task and number of shots.

    Args:
        evaluated: The evaluation.
        most: Images of each.
    """
    import wandb  # slow

    first: dict[tuple[str, int], list] = {}
    for (task, shots, _), cases in evaluated.cases.items():
        first.setdefault((task, shots), cases)
    pictures = evaluated.pictures["images"]
    return [
        [wandb.Image(open_image(pictures[case.key])), task, shots, case.truth, "; ".join(case.candidates),
         "; ".join(case.tuned), case.confidence, case.status, case.outcome, case.reply]
        for (task, shots), cases in first.items()
        for case in (cases[number] for number in evenly_spaced(len(cases), most))
    ]  # fmt: skip


def track_evaluation(recipe: Recipe, folder: Path, evaluated: Evaluated) -> None:
    """Logs an evaluation as a run in the group of its fit.

    Args:
        recipe: Of the evaluation.
        folder: The fit's.
        evaluated: What came out.
    """
    import wandb

    results = evaluated.results
    fit = {"id": run_id(folder), "adapter": results["adapter"]}
    run = wandb.init(
        dir=folder,
        name=f"{folder.name} {evaluated.name}",
        config=asdict(recipe) | {"fit": fit, "encoder": results["encoder"]},
        **wandb_settings(recipe, folder, "evaluation"),
    )
    run.define_metric("few_shot/*", step_metric="shots")
    for point in plot_points(results):
        run.log(point)
    rows = [[row.get(name) for name in _ROW] for row in results["rows"]]
    run.log({"eval/table": wandb.Table(columns=list(_ROW), data=rows)})
    if recipe.tracking.pictures:
        shown = ranking_rows(evaluated, recipe.tracking.pictures)
        run.log({"eval/rankings": wandb.Table(columns=list(_RANKING), data=shown)})
    close_run(run)
