"""Names of evaluations: readable, valid as folders, and never those of another evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.results_file import write_results
from data_prep.settings.loading import load_recipe
from rar_train.engine.result_folder import check_result_name, choose_folder, find_changes, identify, result_name

OWN = load_recipe(["recipe=ranker_lora"])


def changes_of(*settings: str) -> dict:
    return find_changes(OWN, load_recipe(["recipe=ranker_lora", *settings]))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ([], "test-likelihood"),
        (["eval.k=10"], "test-likelihood-k=10"),
        (["eval.shots=[1,16]", "eval.fusion=false"], "test-likelihood-shots=1,16-fusion=false"),
        (["retriever.templates=[]", "ranker.dtype=bfloat16"], "test-likelihood-ranker.dtype=bfloat16"),
        (["data.name=folder", "data.root=/data/my photos"], "test-likelihood-data.name=folder-data.root=my_photos"),
        # What leaves results as they are, or the name begins with.
        (["eval.split=val", "ranker.mode=letters", "trainer.devices=2", "out=x"], "test-likelihood"),
        (["optim.lr=1", "eval.batch_size=4", "data.on_error=raise"], "test-likelihood"),
    ],
)  # fmt: skip
def test_a_name_says_which_settings_differ_from_the_runs_own(settings, name):
    assert result_name("test-likelihood", changes_of(*settings)) == name


values = st.one_of(st.text(max_size=60), st.integers(), st.booleans(), st.none(), st.lists(st.integers(), max_size=30))


@given(st.dictionaries(st.sampled_from(["eval.k", "data.root", "retriever.model", "eval.shots"]), values))
def test_any_values_make_a_name_that_a_folder_can_have(changes):
    name = result_name("test-likelihood", changes)
    assert name.startswith("test-likelihood") and len(name.encode()) <= 320 and len(name) <= 80
    assert Path(name).name == name and not set(name) & set('<>:"/\\|?*\n\0')


def test_a_long_name_is_cut_and_stays_apart_from_others():
    names = {result_name("test-likelihood", {"eval.shots": list(range(1, 100)), "eval.k": k}) for k in (1, 2)}
    assert len(names) == 2 and all(len(name) <= 80 for name in names)


def test_results_of_another_evaluation_are_never_replaced(tmp_path, caplog):
    def choose(recipe, name=None, model="adapter") -> Path:
        changes = find_changes(OWN, recipe)
        identity = identify(recipe, changes, [model])
        folder = choose_folder(tmp_path, "test-likelihood", changes, identity, name)
        folder.mkdir(exist_ok=True)
        write_results(folder, {"evaluation": {"changes": changes, "identity": identity}})
        return folder

    other_k = load_recipe(["recipe=ranker_lora", "eval.k=7"])
    first = choose(OWN)
    assert choose(OWN) == first  # its own results are refreshed
    with caplog.at_level("INFO"):
        retrained = choose(OWN, model="another")
    assert retrained.name.startswith("test-likelihood-") and "which is kept" in caplog.text
    assert choose(OWN, model="another") == retrained != choose(other_k)
    assert choose(other_k, "mine") == tmp_path / "mine" == choose(other_k, "mine")
    with pytest.raises(UserError, match=r"mine: holds another evaluation \(its settings: k=7\), which is not over"):
        choose(OWN, "mine")


def test_a_run_that_was_moved_with_its_data_is_the_same_evaluation(tmp_path):
    def own_in(root: str):
        return replace(OWN, data=replace(OWN.data, name="folder", root=root))

    before, after = own_in("/old/data"), own_in("/new/data")
    assert identify(before, find_changes(before, before), []) == identify(after, find_changes(after, after), [])
    assert identify(before, find_changes(after, before), []) != identify(after, find_changes(after, after), [])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "x" * 101, "validation-x", "index.html", "end."])
def test_names_that_no_folder_of_results_can_have_are_refused(name):
    with pytest.raises(UserError, match="--name"):
        check_result_name(name)
