"""Paths in settings: the home folder, ``data.root`` alone, and saved recipes used from any folder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.paths import expand_home, expand_home_in_word, split_prefix
from data_prep.settings import DataArgs, Recipe
from data_prep.settings.loading import load_recipe, load_saved_recipe, save_recipe
from data_prep.settings.paths import paths_from

RANKER = "recipe=ranker_lora"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data-home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("data.root=~/birds", "data.root={}/birds"),
        ("retriever.model=local-dir:~/clip", "retriever.model=local-dir:{}/clip"),
        ("retriever.name_model=hf:~/clip", "retriever.name_model=hf:{}/clip"),
        ("--ckpt=~/runs/a", "--ckpt={}/runs/a"),
        ("~/runs/a", "{}/runs/a"),
        ("out=~", "out={}"),
        ("out=./~", "out=./~"),
        ("discover.prompt=about ~5", "discover.prompt=about ~5"),
        ("~$report.docx", "~$report.docx"),
        ("runs/~/a", "runs/~/a"),
    ],
)
def test_the_home_folder_is_expanded_where_shells_leave_it(home, word, expanded):
    assert expand_home_in_word(word) == expanded.format(home)


@given(st.text())
def test_other_text_is_never_changed(text):
    if not split_prefix(text)[1].startswith("~"):
        assert expand_home(text) == text
    expand_home_in_word(text)


def test_settings_of_commands_and_programs_expand_the_home_folder_and_recipes_refuse_it(home, tmp_path):
    mix = "mining.mix=[{data: {name: folder, root: ~/more}}]"
    recipe = load_recipe([RANKER, "data.root=~/birds", "out=~/run", "cache=~/cache", "data.descriptions=~/d.json", mix])
    paths = [recipe.data.root, recipe.out, recipe.cache, recipe.data.descriptions, recipe.mining.mix[0].data.root]
    assert paths == [f"{home}/{name}" for name in ("birds", "run", "cache", "d.json", "more")]
    (tmp_path / "mine.yaml").write_text("base: ranker_lora\ncache: ~/cache\n")
    with pytest.raises(UserError, match="cache=~/cache: ~ is no home folder here; give the full path"):
        load_recipe([f"recipe={tmp_path / 'mine.yaml'}"])


def test_a_root_alone_means_a_folder_and_is_an_error_with_armory(tmp_path, caplog):
    caplog.set_level(logging.INFO, "data_prep")
    assert load_recipe([RANKER, "data.root=birds"]).data.name == "folder"
    assert "data.root is given without data.name: data.name=folder" in caplog.text
    assert load_recipe([RANKER, "data.root=birds", "data.name=parquet"]).data.name == "parquet"
    assert load_recipe(["recipe=retriever_lite", "data.root=art"]).data.name == "emoji"
    assert load_recipe([RANKER, "data.root=null"]).data.name == "armory"
    with pytest.raises(UserError, match=r"birds: armory makes its own images; for yours, set data\.name=folder"):
        load_recipe([RANKER, "data.root=birds", "data.name=armory"])
    save_recipe(tmp_path / "recipe.yaml", load_recipe([RANKER]))
    assert load_saved_recipe(tmp_path / "recipe.yaml", ["data.root=birds"]).data.name == "folder"


@pytest.fixture
def project(tmp_path, home, monkeypatch) -> Path:
    """A folder with data, where a run was made with relative paths; the working folder is another one."""
    folder = tmp_path / "project"
    for name in ("runs/a", "birds", "clip"):
        (folder / name).mkdir(parents=True)
    monkeypatch.chdir(folder)
    recipe = Recipe(task="ranker", out="runs/a", data=DataArgs("folder", "birds"))
    recipe.retriever.model = "local-dir:clip"
    recipe.retriever.pretrained = "openai"
    save_recipe(folder / "runs" / "a" / "recipe.yaml", recipe)
    (tmp_path / "elsewhere" / "birds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def load(run: Path, *settings: str) -> tuple[str | None, str, str, str | None]:
    recipe = load_saved_recipe(run / "recipe.yaml", settings)
    return recipe.data.root, recipe.cache, recipe.retriever.model, recipe.retriever.pretrained


def test_a_runs_relative_paths_start_where_they_were_typed(project, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "data_prep")
    absolute = (f"{project}/birds", f"{project}/cache", f"local-dir:{project}/clip", "openai")
    for _ in range(2):
        assert load(project / "runs" / "a") == absolute
    assert caplog.text.count(f"its relative paths start from {project}, where it was made") == 1
    assert load(project / "runs" / "a", "data.root=birds", "cache=c")[:2] == ("birds", "c")  # typed now
    shutil.move(project / "runs" / "a", tmp_path / "moved")
    assert load(tmp_path / "moved") == absolute
    monkeypatch.chdir(project)
    assert load(tmp_path / "moved") == ("birds", "cache", "local-dir:clip", "openai")


def test_a_copied_or_moved_project_uses_its_own_files(project, tmp_path, monkeypatch):
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert load(Path("runs/a"))[0] == "birds"
    shutil.rmtree(project)
    assert load(tmp_path / "copy" / "runs" / "a")[0] == "birds"


def test_the_working_folder_of_another_machine_is_not_used(project, tmp_path, monkeypatch):
    run = project / "runs" / "a"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "another-home"))
    assert load(run)[0] == "birds"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data-home"))
    text = (run / "recipe.yaml").read_text()
    changes = (("root: birds", "root: ../secret", "data.root"), ("cache: cache", "cache: ..", "cache"))
    for typed, changed, message in changes:
        (run / "recipe.yaml").write_text(text.replace(typed, changed))
        with pytest.raises(UserError, match=f"names paths outside its folder: {message}"):
            load(run)
    (run / "recipe.yaml").write_text(text.replace(f"working_folder: {project}", "working_folder: [a]"))
    with pytest.raises(UserError, match="working_folder: must be the path of a folder"):
        load(run)


def test_a_working_folder_that_cannot_be_opened_is_like_one_that_is_not_here(project):
    run = project / "runs" / "a"
    text = (run / "recipe.yaml").read_text()
    file = project / "file"
    file.write_text("")
    for folder in ("/" + 300 * "x", str(file)):  # opening the first is an error, like that of another user's home
        (run / "recipe.yaml").write_text(text.replace(f"working_folder: {project}", f"working_folder: {folder}"))
        assert load(run)[0] == "birds"


def test_a_runs_recipe_can_be_given_as_a_recipe(project):
    assert load_recipe([f"recipe={project / 'runs' / 'a' / 'recipe.yaml'}", "data.root=birds"]).data.name == "folder"


@given(
    st.sampled_from(["cache", "data.root", "mining.shards"]),
    st.from_regex(r"[a-z.]{1,4}(/[a-z.]{1,4})?", fullmatch=True),
)
def test_absolute_paths_and_other_text_stay_as_they_are(key, text):
    section, _, name = key.rpartition(".")

    def nest(value):
        return {section: {name: value}} if section else {name: value}

    (resolved,) = paths_from(Path("/base"), nest(text)).values()
    resolved = resolved[name] if section else resolved
    assert Path(resolved).is_absolute()
    assert paths_from(Path("/other"), nest(resolved)) == nest(resolved)
    other = {"tracking": {"project": text}, "seed": 3, "eval": {"shots": [1]}}
    assert paths_from(Path("/base"), other) == other
