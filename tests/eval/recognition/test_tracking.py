"""An evaluation logged as a separate run in the group of its fit, read back from the offline file."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from data_prep.core.files import read_json
from data_prep.settings.loading import load_recipe
from eval.run import main
from rar_train.engine.wandb_runs import run_id
from tests.commands import parsed
from tests.wandb_records import OfflineRun

SETTINGS = ("tracking.wandb=offline", "tracking.project=shields", "tracking.pictures=3", "eval.shots=[1,2]")


@pytest.fixture(scope="module")
def tracked(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OfflineRun]:
    """The run's folder, and the logged evaluation."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("tracked") / "run")
    main(["--ckpt", str(run), *SETTINGS])
    (folder,) = (run / "wandb").glob("offline-run-*")
    return run, OfflineRun(folder)


def test_an_evaluation_is_a_separate_run_linked_to_the_fit(tracked):
    run, logged = tracked
    assert (logged.run.project, logged.run.job_type) == ("shields", "evaluation")
    assert logged.run.display_name == "run test-likelihood"
    assert logged.run.run_group == run_id(run) == logged.config["fit"]["id"] != logged.run.run_id
    assert logged.config["fit"]["adapter"] == read_json(run / "adapter" / "manifest.json")["adapter"]
    assert logged.config["eval"]["shots"] == [1, 2]


def test_the_table_has_every_row_of_the_results(tracked):
    run, logged = tracked
    rows = read_json(run / "eval" / "test-likelihood" / "results.json")["rows"]
    table = logged.table("eval/table")
    assert len(table) == len(rows)
    for logged_row, row in zip(table, rows, strict=True):
        assert {name: row.get(name) for name in logged_row} == pytest.approx(logged_row)


def test_accuracy_is_a_curve_over_shots(tracked):
    run, logged = tracked
    summary = read_json(run / "eval" / "test-likelihood" / "results.json")["summary"]
    points = {step["shots"]: step for step in logged.history if "shots" in step}
    assert list(points) == [0, 1, 2]
    for part in summary:
        point, task = points[part["shots"]], part["task"]
        assert point[f"{task}/rar"] == pytest.approx(part["methods"]["rar"]["mean"])
        assert point[f"{task}/rar_minus_untuned"] == pytest.approx(part["rar_minus_untuned"]["mean"])
        assert point[f"{task}/rar"] <= point[f"{task}/recall_at_k"] <= 1


def test_rankings_are_logged_with_their_images(tracked):
    run, logged = tracked
    rows = logged.table("eval/rankings")
    assert [row["shots"] for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for row in rows:
        assert row["picture"].is_relative_to(run / "wandb") and row["picture"].exists()
        assert set(row["ranked"].split("; ")) == set(row["retrieved"].split("; "))
        assert 0 < row["probability"] <= 1


def test_the_sweep_of_the_docs_resolves_in_every_combination_and_maximises_what_is_logged(tracked):
    sweep = yaml.safe_load((Path(__file__).parents[3] / "docs" / "sweeps" / "shots_k.yaml").read_text())
    assert sweep["method"] == "grid"
    assert sweep["metric"]["name"] in {name for step in tracked[1].history for name in step}
    env, *command, last = sweep["command"]
    assert (env, command[:5], last) == (
        "${env}", ["python", "-m", "eval.run", "--ckpt", "runs/ranker_lora"], "${args_no_hyphens}"
    )  # fmt: skip
    names, grids = zip(*((name, grid["values"]) for name, grid in sweep["parameters"].items()), strict=True)
    combinations = set()
    for values in product(*grids):
        chosen = {name: {"value": value} for name, value in zip(names, values, strict=True)}
        arguments = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
        args = parsed("eval.run", *command[3:], *arguments)
        recipe = load_recipe(["recipe=ranker_lora", *args.settings])
        assert args.split == "val" and recipe.tracking.wandb == "online"
        combinations.add((*recipe.eval.shots, recipe.eval.k))
    assert combinations == set(product((1, 2, 4, 8, 16), (3, 4, 5, 6, 7)))
