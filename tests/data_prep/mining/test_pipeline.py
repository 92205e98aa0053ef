"""The data stages in one call, on a small armory: cached results are reused, what a setting affects is rebuilt."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.datasets import read_dataset
from data_prep.datasets.shots import draw_shots
from data_prep.memory.memories import load_memories
from data_prep.mining.neighbours import split_halves
from data_prep.mining.pipeline import build
from data_prep.mining.shards import ShardedExamples
from data_prep.settings.loading import load_recipe

SETTINGS = [
    "recipe=ranker_lora",
    "data.armory.train_classes=8",
    "data.armory.val_classes=8",
    "data.armory.train_images=3",
    "data.armory.memory_images=4",
    "data.armory.query_images=2",
    "mining.k=4",
    "eval.shots=[2]",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def recipe_in(cache: Path, *settings: str):
    return load_recipe([*SETTINGS, f"cache={cache}", *settings])


@pytest.fixture(scope="module")
def built(cache):
    return build(recipe_in(cache))


def state(cache: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def rows(folder: Path) -> list:
    examples = ShardedExamples(folder)
    return [examples[number] for number in range(len(examples))]


def test_train_and_val_have_examples_of_disjoint_classes(built):
    train, val = (rows(folder) for folder in built)
    assert len(train) > 12
    assert len(val) > 8
    names = [{c.name for example, _ in part for c in example.candidates} for part in (train, val)]
    assert not names[0] & names[1]
    for example, image in train + val:
        assert len({c.label for c in example.candidates}) == 4
        assert example.truth is not None
        assert image.size == (96, 96)


def test_the_image_of_an_example_is_the_one_its_key_names(built, cache):
    examples = {example.key: image for example, image in rows(built[0])}
    dataset = read_dataset(recipe_in(cache).data, cache, ("train",))
    shown = [s for s in dataset.parts["train"] if f"{s.key}-image" in examples]
    assert shown
    for sample in shown:
        assert examples[f"{sample.key}-image"].tobytes() == Image.open(sample.path).convert("RGB").tobytes()


def test_a_second_build_writes_nothing(built, cache):
    before = state(cache)
    assert build(recipe_in(cache)) == built
    assert state(cache) == before


def test_another_k_rebuilds_only_the_examples(built, cache):
    before = state(cache)
    folders = build(recipe_in(cache, "mining.k=3"))
    after = state(cache)
    assert not set(folders) & set(built)
    assert {path: time for path, time in after.items() if path in before} == before
    assert {path.relative_to(cache).parts[0] for path in after.keys() - before.keys()} == {f.name for f in folders}


def test_an_equal_recipe_gives_the_same_bytes_in_another_cache(built, tmp_path):
    rebuilt = build(recipe_in(tmp_path))
    for first, second in zip(built, rebuilt, strict=True):
        assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


@pytest.mark.parametrize(("shots", "images"), [(None, 32), (2, 16), (0, None)])
def test_memories_hold_the_sampled_shots_and_every_name(built, cache, encoder, shots, images):
    recipe = recipe_in(cache)
    dataset = read_dataset(recipe.data, cache, ("val_memory",))
    memories = load_memories(recipe, encoder, dataset, "val_memory", shots, 1)
    assert {entry.key for entry in memories.names.entries} == set(dataset.names)
    if images is None:
        assert memories.images is None
    else:
        assert len(memories.images.entries) == images
    if shots:
        sampled = draw_shots(dataset.parts["val_memory"], shots, 1)
        assert [entry.digest for entry in memories.images.entries] == [sample.digest for sample in sampled]


@pytest.mark.parametrize(
    "setting", ["mining.target=graded", "mining.seed=3", "trainer.devices=2", "ranker.lora.rank=4"]
)
def test_a_setting_that_does_not_affect_the_examples_rebuilds_nothing(built, cache, setting):
    before = state(cache)
    assert build(recipe_in(cache, setting)) == built
    assert state(cache) == before


def test_with_disjoint_halves_one_half_queries_the_other(built, cache):
    train, _ = build(recipe_in(cache, "mining.neighbours=disjoint", "mining.ground_truth=insert"))
    dataset = read_dataset(recipe_in(cache).data, cache, ("train",))
    memory, queries = split_halves(dataset.parts["train"], 0)
    keys = {example.key.rpartition("-")[0] for example, _ in rows(train)}
    assert keys == {sample.key for sample in queries}
    assert not keys & {sample.key for sample in memory}


@pytest.mark.parametrize(("full_train_memory", "sources"), [("false", ["name"]), ("true", ["image", "name"])])
def test_without_shots_validation_examples_come_from_the_memory_that_is_evaluated(
    built, cache, full_train_memory, sources
):
    settings = ["eval.shots=[]", f"eval.full_train_memory={full_train_memory}", "mining.sources=[image,name]"]
    _, val = build(recipe_in(cache, *settings))
    assert sorted({example.key.rpartition("-")[2] for example, _ in rows(val)}) == sources


def test_mining_with_a_leak_warns(cache, caplog):
    build(recipe_in(cache, "mining.neighbours=self"))
    assert "lets each image find itself" in caplog.text


def test_data_sets_are_mixed_by_weight(built, cache):
    """Mixes a random half of one armory's examples with all examples of another armory, twice."""
    other = "{seed: 5, armory: {train_classes: 4, val_classes: 8, train_images: 3}}"
    mixed = ["mining.weight=0.5", f"mining.mix=[{{data: {other}, weight: 2}}]"]
    train, val = build(recipe_in(cache, *mixed))
    assert val == built[1]
    first = {example.key: example for example, _ in rows(built[0])}
    both = {example.key: example for example, _ in rows(train)}
    first_keys = [key for key in both if key.startswith("0-armory-")]
    other_keys = [key for key in both if key.startswith("1-armory-")]
    assert 0.2 * len(first) < len(first_keys) < 0.8 * len(first)
    assert all(both[key].candidates == first[key.removeprefix("0-armory-")].candidates for key in first_keys)
    assert len(other_keys) + len(first_keys) == len(both)
    once = [key for key in other_keys if not key.endswith("-again1")]
    assert set(other_keys) - set(once) == {f"{key}-again1" for key in once}
    offset = ShardedExamples(built[0]).manifest["classes"]
    assert min(both[key].label for key in other_keys) >= offset
    assert all(both[key].truth is not None for key in both)
    assert build(recipe_in(cache, *mixed))[0] == train


def test_a_folder_of_shards_takes_the_place_of_mining(built, cache, tmp_path):
    shutil.copytree(built[0], tmp_path / "mine")
    assert build(recipe_in(cache, f"mining.shards={tmp_path / 'mine'}")) == (tmp_path / "mine", built[1])


def test_damaged_shards_are_rebuilt_once_deleted_as_the_error_says_unless_they_are_outside_the_cache(built, tmp_path):
    shutil.copytree(built[0].parent, tmp_path / "cache")
    folder = tmp_path / "cache" / built[0].name
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "mined.txt").write_bytes(before["mined.txt"].replace(b"a", b"b", 1))
    with pytest.raises(UserError, match=r"mined\.txt: damaged .*; delete (\S+) to have it made again") as caught:
        ShardedExamples(folder)
    shutil.rmtree(re.search(r"delete (\S+) to", str(caught.value))[1])
    assert build(recipe_in(tmp_path / "cache"))[0] == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "mined.txt").unlink()
    with pytest.raises(UserError, match=r"mined\.txt: missing; mining\.shards is not made again by itself: copy,"):
        build(recipe_in(tmp_path / "cache", f"mining.shards={folder}"))


def test_the_error_about_an_unknown_data_set_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"data\.name=shields: there are armory, emoji, folder"):
        build(recipe_in(tmp_path, "data.name=shields"))


def test_candidates_carry_descriptions_where_prompts_show_them(built, tmp_path):
    shown, hidden = (
        build(recipe_in(tmp_path, "data.descriptions=own", f"ranker.descriptions={on}", "retriever.descriptions=false"))
        for on in (True, False)
    )
    for folder, plain in zip(shown, built, strict=True):
        for (example, _), (expected, _) in zip(rows(folder), rows(plain), strict=True):
            assert [c.name for c in example.candidates] == [c.name for c in expected.candidates]
            assert all(" shield " in text for text in example.descriptions) and len(example.descriptions) == 4
            assert expected.descriptions == ()
    for folder, plain in zip(hidden, built, strict=True):
        assert folder.name == plain.name  # descriptions that nothing shows change nothing


def test_descriptions_that_prompts_do_not_show_change_no_examples(built, tmp_path):
    names = sorted({candidate.name for example, _ in rows(built[0]) for candidate in example.candidates})
    file, folders = tmp_path / "texts.json", []
    for texts in (["striped"], ["striped", "small"], ["dotted"]):
        file.write_text(json.dumps({names[0]: texts}))
        settings = (f"data.descriptions={file}", "ranker.descriptions=true", "retriever.descriptions=false")
        folders.append(build(recipe_in(tmp_path, *settings))[0])
    assert folders[0] == folders[1] != folders[2]


def test_descriptions_in_the_memory_of_names_are_mined_again(built, tmp_path):
    described = build(recipe_in(tmp_path, "data.descriptions=own"))
    assert described[0].name != built[0].name
    assert all(example.descriptions == () for example, _ in rows(described[0]))


def test_candidates_come_from_adapters_that_have_not_seen_the_image(built, cache, caplog):
    sources = ["tip", "linear_probe"]
    with caplog.at_level("DEBUG"):
        train, val = build(recipe_in(cache, f"mining.sources=[{','.join(sources)}]"))
    keys = [example.key for example, _ in rows(train)]
    assert {key.rpartition("-")[2] for key in keys} == set(sources)
    assert {example.key.rpartition("-")[2] for example, _ in rows(val)} == set(sources)
    fitted = [line for line in caplog.messages if "fitting linear_probe to" in line]
    # 24 training images of 8 classes, in five folds: each is searched by a fit to the others.
    assert sum(16 < int(re.search(r"to (\d+) images", line)[1]) < 24 for line in fitted) == 5
    manifest = json.loads((train / "manifest.json").read_text())
    assert set(manifest["adapters"]) == set(sources) and set(manifest["recall"]) == set(sources)
    assert build(recipe_in(cache, f"mining.sources=[{','.join(sources)}]")) == (train, val)
    (again, _) = build(recipe_in(cache, "mining.sources=[image,name]"))
    assert again == built[0]  # an adapter that is no source changes no key
