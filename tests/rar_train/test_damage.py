"""Damage to any file of a run is reported, and the same command restores the same result."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import read_sealed
from data_prep.settings import Recipe
from rar_train.engine.run_folder import claim_run_folder, find_adapter
from rar_train.ranker.datamodule import build_examples
from rar_train.ranker.train import train_ranker
from tests.damage import KINDS, contents, damage
from tests.manifests import rewrite_manifest

RESULT = ("adapter/*", "recipe.yaml", "mined.txt", "best.json", "run.json")

CHECKPOINT = (
    "ckpt",
    "json",
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
    "adapter/manifest.json",
)
DURING_TRAINING = (
    *(f"checkpoints/step-0000000{step}.{file}" for step in (3, 4) for file in CHECKPOINT),
    "data.json", "mined.txt", "best.json", "recipe.yaml", "run.json",
)  # fmt: skip
AFTER_TRAINING = (
    "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/manifest.json", "recipe.yaml",
    "mined.txt", "run.json",
)  # fmt: skip


@pytest.fixture(scope="module", params=["last", pytest.param("best", marks=pytest.mark.slow)])
def intact(request, tiny: Callable[..., Recipe], tmp_path_factory) -> tuple[Path, Callable[[Path], Recipe]]:
    """A finished run, and a function that makes its recipe for another folder."""

    def make_recipe(out: Path) -> Recipe:
        return tiny(out, f"trainer.adapter={request.param}", "ranker.lora.dropout=0.1")

    return train_ranker(make_recipe(tmp_path_factory.mktemp("intact") / "run")), make_recipe


@pytest.fixture
def run(intact, tmp_path) -> tuple[Path, Recipe, dict[str, bytes]]:
    """A copy of it for the test, its recipe, and the expected contents of its results."""
    folder, recipe = shutil.copytree(intact[0], tmp_path / "run"), intact[1](tmp_path / "run")
    claim_run_folder(recipe)
    return folder, recipe, contents(folder, *RESULT)


def mark_most_slow(cases: list) -> list:
    """All cases, most of which are marked slow."""
    quick = {0, len(cases) // 2, len(cases) - 1}
    return [case if index in quick else pytest.param(*case, marks=pytest.mark.slow) for index, case in enumerate(cases)]


@pytest.mark.parametrize(("file", "kind"), mark_most_slow([(file, kind) for file in DURING_TRAINING for kind in KINDS]))
def test_a_run_damaged_during_training_ends_in_the_same_bytes(run, file, kind):
    run, recipe, expected = run
    shutil.rmtree(run / "adapter")
    damage(run / file, kind)
    train_ranker(recipe)
    assert contents(run, *RESULT) == expected
    find_adapter(run)


def test_a_run_with_all_checkpoints_damaged_starts_over_and_ends_in_the_same_bytes(run, caplog):
    run, recipe, expected = run
    shutil.rmtree(run / "adapter")
    for kind, checkpoint in zip(KINDS, (run / "checkpoints").glob("step-*.ckpt"), strict=False):
        damage(checkpoint, kind)
    train_ranker(recipe)
    assert "goes on from the beginning" in caplog.text
    assert contents(run, *RESULT) == expected


@pytest.mark.parametrize(("file", "kind"), mark_most_slow([(file, kind) for file in AFTER_TRAINING for kind in KINDS]))
def test_damage_after_training_is_reported_on_use_and_repaired_by_the_same_command(run, caplog, file, kind):
    run, recipe, expected = run
    damage(run / file, kind)
    if (file, kind) == ("run.json", "removed"):
        find_adapter(run)
        assert "run.json: missing" in caplog.text
    else:
        with pytest.raises(UserError) as caught:
            find_adapter(run)
        assert file in str(caught.value) or Path(file).parent.name in str(caught.value)
        assert "command of rar_train.fit" in str(caught.value)
    train_ranker(recipe)
    find_adapter(run)
    assert contents(run, *RESULT) == expected


def test_a_changed_setting_in_a_saved_recipe_is_reported_with_both_values(run):
    run = run[0]
    saved = run / "recipe.yaml"
    saved.write_text(saved.read_text().replace("  k: 5", "  k: 4"))
    with pytest.raises(UserError, match=r"recipe\.yaml: damaged or edited since training \(.*k: 5 -> 4"):
        find_adapter(run)


def test_a_run_may_be_moved_with_its_cache(run):
    run = run[0].rename(run[0].with_name("elsewhere"))
    saved = run / "recipe.yaml"
    saved.write_text(saved.read_text().replace("\ncache: ", "\ncache: /moved"))
    assert find_adapter(run) == (run / "adapter", run)


def test_the_list_of_mined_images_is_not_rebuilt_from_other_data(run, caplog):
    run, recipe, _ = run
    rewrite_manifest(run / "adapter", data={"examples-000000.tar": "of another training"})
    damage(run / "mined.txt", "removed")
    with pytest.raises(UserError, match=r"mined\.txt: missing or damaged, and .* is not what the run was trained on"):
        train_ranker(recipe)
    assert not (run / "mined.txt").exists()
    find_adapter(run)
    assert f"{run / 'mined.txt'}: missing, so leaks would not be seen" in caplog.text


def test_the_list_of_mined_images_is_not_rebuilt_from_a_data_folder_that_lost_its_list(run):
    run, recipe, expected = run
    build_examples(recipe)
    data_folder = Path(read_sealed(run / "data.json")["train"])
    damage(data_folder / "mined.txt", "removed")
    damage(run / "mined.txt", "removed")
    with pytest.raises(
        UserError, match=rf"{data_folder / 'mined.txt'}: missing; delete {data_folder} to have it made again"
    ):
        train_ranker(recipe)
    shutil.rmtree(data_folder)
    train_ranker(recipe)
    assert contents(run, *RESULT) == expected


def test_run_json_contains_no_paths(run):
    assert not {"out", "cache"} & read_sealed(run[0] / "run.json")["recipe"].keys()
