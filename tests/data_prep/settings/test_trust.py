"""Saved recipes: paths outside their folder are used only if this user gave them before."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from data_prep.core.errors import UserError
from data_prep.settings import DataArgs, Recipe
from data_prep.settings.loading import load_saved_recipe, save_recipe
from data_prep.settings.trust import paths_outside, remember


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Path:
    """Returns the path of a run's recipe, which is not in the working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "recipe.yaml"


def recipe_with(**values) -> Recipe:
    return Recipe(task="ranker", **{"out": "run"} | values)


def write_foreign_recipe(path: Path, **values) -> None:
    """Writes a recipe as if it came from another machine: none of its paths are remembered."""
    path.write_text(yaml.safe_dump({"task": "ranker", "out": "/elsewhere/run"} | values))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cache", "/somewhere/else"),
        ("cache", "../else"),
        ("data.root", "/data/birds"),
        ("ranker.model", "/models/llava"),
        ("retriever.model", "local-dir:/models/clip"),
        ("retriever.model", "hf:/models/siglip"),
        ("retriever.name_model", "timm:/models/dino"),
        ("ranker.server.base_url", "http://elsewhere/v1"),
        ("ranker.server.adapter_url", "http://elsewhere/v1"),
        ("mining.mix", [{"data": {"name": "folder", "root": "/data/more"}}]),
    ],
)
def test_a_path_outside_the_folder_is_detected_in_any_key(key, value, run):
    *section, name = key.split(".")
    values = {name: value}
    for part in reversed(section):
        values = {part: values}
    assert list(paths_outside(values, run.parent)) == [key]


def test_a_servers_url_is_shown_as_it_was_given(run):
    url = "http://elsewhere/v1"
    assert paths_outside({"ranker": {"server": {"base_url": url}}}, run.parent) == {"ranker.server.base_url": [url]}
    write_foreign_recipe(run, ranker={"server": {"base_url": url}})
    with pytest.raises(UserError, match=f"ranker.server.base_url: {url}"):
        load_saved_recipe(run, [])


def test_names_of_libraries_models_are_neither_paths_nor_code(run):
    models = {"model": "timm:resnet18", "pretrained": "a1_in1k", "name_model": "hf:google/siglip2-base-patch16-224"}
    assert paths_outside({"retriever": models}, run.parent) == {}


def test_a_models_own_code_is_run_only_if_it_was_allowed_before(run):
    retriever = {"model": "hf:somebody/model", "trust_remote_code": True}
    write_foreign_recipe(run, retriever=retriever)
    with pytest.raises(UserError, match=r"retriever\.trust_remote_code: code of hf:somebody/model.*_remote_code=true"):
        load_saved_recipe(run, [])
    assert load_saved_recipe(run, ["retriever.trust_remote_code=false"]).retriever.trust_remote_code is False
    remember({"retriever": retriever}, run.parent)
    assert load_saved_recipe(run, []).retriever.trust_remote_code
    write_foreign_recipe(run, retriever=retriever | {"model": "hf:somebody/else"})
    with pytest.raises(UserError, match="code of hf:somebody/else"):
        load_saved_recipe(run, [])


def test_paths_inside_the_folder_and_other_text_are_not_reported(run):
    values = {
        "data": {"root": "photographs/birds"},
        "out": "/elsewhere/run",
        "discover": {"prompt": "What is this? ..."},
    }
    assert paths_outside(values | {"ranker": {"model": str(run.parent / "model")}}, run.parent) == {}


def test_a_symlink_that_points_outside_counts_as_a_path_outside(run):
    Path("cache").symlink_to(run.parent.parent)
    assert paths_outside({"cache": "cache"}, run.parent)


def test_a_working_folder_whose_name_is_not_utf8_works(run, tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    monkeypatch.chdir(folder)
    save_recipe(run, recipe_with(cache="../cache", data=DataArgs("folder", "birds")))
    assert load_saved_recipe(run, []).data.root == "birds"


def test_a_path_outside_the_folder_is_shown_and_needs_to_be_given_once(run):
    write_foreign_recipe(run, cache="/somewhere/else", data={"name": "folder", "root": "/my birds"})
    message = r"names paths outside its folder: cache: /somewhere/else; data.root: /my birds\. Give them, or others"
    with pytest.raises(UserError, match=rf"{run}: .*{message}.*: cache=/somewhere/else data.root='/my birds'"):
        load_saved_recipe(run, [])
    with pytest.raises(UserError, match=r"data\.root"):
        load_saved_recipe(run, ["cache=/somewhere/else"])
    assert load_saved_recipe(run, ["cache=/my/cache", "data.root=/my birds"]).cache == "/my/cache"
    with pytest.raises(UserError, match="cache: /somewhere/else"):  # this path was not the one given
        load_saved_recipe(run, [])
    load_saved_recipe(run, ["cache=/somewhere/else"])
    assert load_saved_recipe(run, []).cache == "/somewhere/else"


def test_a_users_run_stays_trusted_when_it_is_copied_until_its_paths_change(run, tmp_path):
    save_recipe(run, recipe_with(cache="/somewhere/else", data=DataArgs("folder", "/data/birds"), out="/runs/a"))
    shutil.copytree(run.parent, tmp_path / "copied")
    assert load_saved_recipe(tmp_path / "copied" / "recipe.yaml", ["mining.k=4"]).data.root == "/data/birds"
    run.write_text(run.read_text().replace("cache: /somewhere/else", "cache: /data/birds"))
    with pytest.raises(UserError, match="cache: /data/birds"):
        load_saved_recipe(run, [])


def test_a_saved_recipe_cannot_have_a_base(run):
    run.write_text("base: ranker_lora\n")
    with pytest.raises(UserError, match="unknown key base"):
        load_saved_recipe(run, [])


def test_if_paths_cannot_be_remembered_the_run_is_saved_but_they_must_be_given_again(
    run, tmp_path, monkeypatch, caplog
):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "home"))
    save_recipe(run, recipe_with(data=DataArgs("folder", "/data/birds")))
    assert "will ask for it again" in caplog.text
    with pytest.raises(UserError, match=r"data\.root=/data/birds"):
        load_saved_recipe(run, [])
    assert load_saved_recipe(run, ["data.root=/data/birds"])


def test_a_user_without_a_home_needs_to_give_a_path_once(run, tmp_path, monkeypatch, caplog):
    """As in a container with an arbitrary user: the home is not writable, so the temporary folder stores the paths."""
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/nobody")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    save_recipe(run, recipe_with(cache="/somewhere/else"))
    assert load_saved_recipe(run, []).cache == "/somewhere/else" and not caplog.records
    (store,) = tmp_path.glob("rar-train-*")
    store.chmod(0o777)  # any user could have put something there
    with pytest.raises(UserError, match="cache: /somewhere/else"):
        load_saved_recipe(run, [])
    save_recipe(run, recipe_with(cache="/somewhere/else"))
    assert "commands will ask for it again" in caplog.text


@pytest.fixture
def code(run) -> Path:
    """A module in the working folder that must not be run."""
    file = Path("foreign_code.py")
    file.write_text("raise SystemExit('it was run')")
    return file.resolve()


@pytest.mark.parametrize(
    ("key", "value", "setting"),
    [
        ("data.name", "foreign_code:read", "data.name=foreign_code:read"),
        ("retriever.model", "foreign_code:load", "retriever.model=foreign_code:load"),
        ("eval.metrics", ["mean_class_top1", "foreign_code:f"], "'eval.metrics=[mean_class_top1,foreign_code:f]'"),
        ("mining.mix", [{"data": {"name": "foreign_code:read"}}], "mining.mix="),
    ],
)
def test_code_of_a_recipe_from_another_machine_is_shown_and_needs_to_be_given(key, value, setting, run, code):
    section, name = key.split(".")
    write_foreign_recipe(run, **{section: {name: value}})
    with pytest.raises(UserError, match="names paths or code outside its folder") as caught:
        load_saved_recipe(run, [])
    reference = "foreign_code:" + {"eval.metrics": "f", "retriever.model": "load"}.get(key, "read")
    assert f"{key}: {reference} in {code}." in str(caught.value)
    assert setting.replace("'", "") in str(caught.value).replace("'", "")


def test_code_that_the_user_gave_is_trusted_in_that_file_alone(run, code, tmp_path, monkeypatch):
    write_foreign_recipe(run, data={"name": "foreign_code:read"})
    assert load_saved_recipe(run, ["data.name=foreign_code:read"]).data.name == "foreign_code:read"
    assert load_saved_recipe(run, []).data.name == "foreign_code:read", "given once"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "foreign_code.py").write_text(code.read_text())
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="another machine"):
        load_saved_recipe(run, [])


def test_code_in_a_users_own_recipe_is_trusted(run, code):
    save_recipe(run, recipe_with(data=DataArgs(name="foreign_code:read")))
    assert load_saved_recipe(run, []).data.name == "foreign_code:read"


def test_names_that_are_no_code_need_no_trust(run):
    write_foreign_recipe(run, data={"name": "folder"}, retriever={"model": "hf-hub:timm/vit"})
    assert load_saved_recipe(run, []).retriever.model == "hf-hub:timm/vit"
