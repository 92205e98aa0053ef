"""Saved recipes: paths outside their folder are used only where this user gave them before."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from data_prep.core.errors import UserError
from data_prep.settings import DataArgs, Recipe
from data_prep.settings.loading import load_saved_recipe, save_recipe
from data_prep.settings.trust import outside


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Path:
    """The place of a run's recipe; the working folder is another one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "recipe.yaml"


def recipe_with(**values) -> Recipe:
    return Recipe(task="ranker", **{"out": "run"} | values)


def write_elsewhere(place: Path, **values) -> None:
    """A recipe as it comes from another machine: nothing is remembered of it."""
    place.write_text(yaml.safe_dump({"task": "ranker", "out": "/elsewhere/run"} | values))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cache", "/somewhere/else"),
        ("cache", "../else"),
        ("data.root", "/data/birds"),
        ("ranker.model", "/models/llava"),
        ("retriever.model", "local-dir:/models/clip"),
        ("mining.mix", [{"data": {"name": "folder", "root": "/data/more"}}]),
    ],
)
def test_a_path_outside_is_seen_whichever_key_has_it(key, value, run):
    *section, name = key.split(".")
    values = {section[0]: {name: value}} if section else {name: value}
    assert list(outside(values, run.parent)) == [key]


def test_paths_inside_and_other_text_are_never_asked_for(run):
    values = {
        "data": {"root": "photographs/birds"},
        "out": "/elsewhere/run",
        "discover": {"prompt": "What is this? ..."},
    }
    assert outside(values | {"ranker": {"model": str(run.parent / "model")}}, run.parent) == {}


def test_a_link_that_leads_out_is_a_path_outside(run):
    Path("cache").symlink_to(run.parent.parent)
    assert outside({"cache": "cache"}, run.parent)


def test_a_working_folder_of_another_encoding_is_no_hindrance(run, tmp_path, monkeypatch):
    odd = tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()
    monkeypatch.chdir(odd)
    save_recipe(run, recipe_with(cache="../cache", data=DataArgs(root="birds")))
    assert load_saved_recipe(run, []).data.root == "birds"


def test_a_path_outside_is_shown_and_given_once(run):
    write_elsewhere(run, cache="/somewhere/else", data={"root": "/my birds"})
    said = r"names paths outside its folder: cache: /somewhere/else; data.root: /my birds\. Give them, or others"
    with pytest.raises(UserError, match=rf"{run}: .*{said}.*: cache=/somewhere/else data.root='/my birds'"):
        load_saved_recipe(run, [])
    with pytest.raises(UserError, match=r"data\.root"):
        load_saved_recipe(run, ["cache=/somewhere/else"])
    assert load_saved_recipe(run, ["cache=/my/own", "data.root=/my birds"]).cache == "/my/own"
    with pytest.raises(UserError, match="cache: /somewhere/else"):  # it was not what was given
        load_saved_recipe(run, [])
    load_saved_recipe(run, ["cache=/somewhere/else"])
    assert load_saved_recipe(run, []).cache == "/somewhere/else"


def test_ones_own_run_is_used_wherever_it_is_moved_until_its_paths_change(run, tmp_path):
    save_recipe(run, recipe_with(cache="/somewhere/else", data=DataArgs(root="/data/birds"), out="/runs/a"))
    shutil.copytree(run.parent, tmp_path / "copied")
    assert load_saved_recipe(tmp_path / "copied" / "recipe.yaml", ["mining.k=4"]).data.root == "/data/birds"
    run.write_text(run.read_text().replace("cache: /somewhere/else", "cache: /data/birds"))
    with pytest.raises(UserError, match="cache: /data/birds"):
        load_saved_recipe(run, [])


def test_a_saved_recipe_builds_on_no_other(run):
    run.write_text("base: ranker_lora\n")
    with pytest.raises(UserError, match="unknown key base"):
        load_saved_recipe(run, [])


def test_where_nothing_can_be_remembered_a_run_is_saved_and_its_paths_are_asked_for(run, tmp_path, monkeypatch, caplog):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "home"))
    save_recipe(run, recipe_with(data=DataArgs(root="/data/birds")))
    assert "will ask for it again" in caplog.text
    with pytest.raises(UserError, match=r"data\.root=/data/birds"):
        load_saved_recipe(run, [])
    assert load_saved_recipe(run, ["data.root=/data/birds"])


def test_a_user_without_a_home_is_asked_once_too(run, tmp_path, monkeypatch, caplog):
    """As in a container with any user: the home can't be written, and paths are remembered in the temporary folder."""
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/nobody")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    save_recipe(run, recipe_with(cache="/somewhere/else"))
    assert load_saved_recipe(run, []).cache == "/somewhere/else" and not caplog.records
    (store,) = tmp_path.glob("rar-train-*")
    store.chmod(0o777)  # anybody could have put something there
    with pytest.raises(UserError, match="cache: /somewhere/else"):
        load_saved_recipe(run, [])
    save_recipe(run, recipe_with(cache="/somewhere/else"))
    assert "commands will ask for it again" in caplog.text
