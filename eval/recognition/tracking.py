"""Logs an evaluation to Weights & Biases: its table, its curve over shots, and images with their rankings.

It is a separate run and does not resume the fit's: a fit is evaluated many times (modes, splits, shots, checkpoints),
and these evaluations would overwrite each other's metrics there; also, a sweep agent gives every evaluation its own
run. It is linked to the fit's run by the group, which is the fit's run id, and by ``fit`` in its config.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data_prep.core.images import open_image
from data_prep.core.rng import evenly_spaced
from data_prep.settings import Recipe
from eval.metrics.further import columns_of
from eval.metrics.summary import GAINS
from eval.report.reading import Evaluated
from rar_train.engine.wandb_runs import close_run, run_id, wandb_settings

_ROW_COLUMNS = (
    "task", "shots", "seed", "method", "mode", "k", "n", "top1", "top5", "recall_at_k", "top1_given_hit", "corrected",
    "broken",
)  # fmt: skip
_RANKING_COLUMNS = (
    "picture",
    "task",
    "shots",
    "truth",
    "retrieved",
    "ranked",
    "probability",
    "status",
    "outcome",
    "reply",
)


def plot_points(results: dict) -> list[dict[str, float]]:
    """Computes the points of the curves: for each task and number of shots, the means over seeds.

    Returns:
        list[dict[str, float]]: ``shots``, and as ``TASK/NAME`` each method's top-1 and its standard deviation
        (``_sd``), its further metrics (``_COLUMN``), ``recall_at_k``, and the tuned ranker's gains; fractions, not per
        cent.
    """
    recalls, further = defaultdict(list), defaultdict(lambda: defaultdict(list))
    for row in results["rows"]:
        if row["method"] == "rar":
            recalls[row["task"], row["shots"]].append(row["recall_at_k"])
        for column in columns_of(results):
            if row[column] is not None:
                further[row["task"], row["shots"]][f"{row['method']}_{column}"].append(row[column])
    points = []
    for part in results["summary"]:
        values = {method: top1["mean"] for method, top1 in part["methods"].items()}
        values |= {f"{method}_sd": top1["sd"] for method, top1 in part["methods"].items()}
        values |= {gain: part[gain]["mean"] for gain in GAINS if gain in part}
        values |= {name: float(np.mean(of_seeds)) for name, of_seeds in further[part["task"], part["shots"]].items()}
        values["recall_at_k"] = float(np.mean(recalls[part["task"], part["shots"]]))
        points.append({"shots": part["shots"]} | {f"{part['task']}/{name}": value for name, value in values.items()})
    return points


def ranking_rows(evaluated: Evaluated, max_images: int) -> list[list]:
    """Makes the table of rankings: evenly spaced images with the first seed of each task and number of shots.

    Args:
        evaluated: The evaluation.
        max_images: Images of each task and number of shots.
    """
    import wandb  # slow

    first_seed: dict[tuple[str, int], list] = {}
    for (task, shots, _), cases in evaluated.cases.items():
        first_seed.setdefault((task, shots), cases)
    image_files = evaluated.pictures["images"]
    return [
        [wandb.Image(open_image(image_files[case.key])), task, shots, case.truth, "; ".join(case.candidates),
         "; ".join(case.tuned), case.confidence, case.status, case.outcome, case.reply]
        for (task, shots), cases in first_seed.items()
        for case in (cases[index] for index in evenly_spaced(len(cases), max_images))
    ]  # fmt: skip


def track_evaluation(recipe: Recipe, folder: Path, evaluated: Evaluated) -> None:
    """Logs an evaluation as a run in the group of its fit.

    Args:
        recipe: The evaluation's recipe.
        folder: The fit's folder.
        evaluated: The evaluation.
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
    columns = [*_ROW_COLUMNS, *columns_of(results)]
    rows = [[row.get(name) for name in columns] for row in results["rows"]]
    run.log({"eval/table": wandb.Table(columns=columns, data=rows)})
    if recipe.tracking.pictures:
        rows = ranking_rows(evaluated, recipe.tracking.pictures)
        run.log({"eval/rankings": wandb.Table(columns=list(_RANKING_COLUMNS), data=rows)})
    close_run(run)
