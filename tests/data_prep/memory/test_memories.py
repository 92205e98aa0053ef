"""Image and name memories: the data set's prompts, shots sampled by the recipe, and caching."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.datasets import READERS, Dataset, read_dataset
from data_prep.datasets.shots import draw_shots, first_shots
from data_prep.embedding.encoder import embed_images, embed_names
from data_prep.memory import memory
from data_prep.memory.memories import Memories, load_memories, name_memory
from data_prep.memory.memory import Memory
from data_prep.settings import DataArgs, Recipe, RetrieverArgs

DATASET_TEMPLATES = ("a shield: {}.", "{}, painted")


@pytest.fixture
def recipe(small_armory_args, tmp_path):
    return Recipe("ranker", "run", str(tmp_path / "cache"), data=small_armory_args)


def name_vectors(recipe, encoder, dataset) -> np.ndarray:
    names = load_memories(recipe, encoder, dataset, "test_memory", 0, 0).names
    return names.vectors(range(len(names.entries)))


def expected(encoder, dataset, templates, cache) -> np.ndarray:
    names = [dataset.names[label] for label in dataset.labels("test_memory")]
    return embed_names(encoder, names, RetrieverArgs(templates=list(templates)), cache)


def test_names_use_the_data_sets_templates_unless_the_recipe_has_some(recipe, encoder, armory, tmp_path):
    prompted = replace(armory, templates=DATASET_TEMPLATES)
    templates = (("{}",), DATASET_TEMPLATES, ("a {}",))
    bare, from_dataset, from_recipe = (expected(encoder, armory, t, tmp_path) for t in templates)
    assert np.abs(bare - from_dataset).max() > 1e-3
    np.testing.assert_allclose(name_vectors(recipe, encoder, armory), bare, atol=1e-6)
    np.testing.assert_allclose(name_vectors(recipe, encoder, prompted), from_dataset, atol=1e-6)
    chosen = replace(recipe, retriever=RetrieverArgs(templates=["a {}"]))
    np.testing.assert_allclose(name_vectors(chosen, encoder, prompted), from_recipe, atol=1e-6)


@pytest.mark.parametrize("draw", ["coop", "first_n"])
def test_shots_are_sampled_by_the_recipes_method(recipe, encoder, armory, draw):
    recipe = replace(recipe, data=replace(recipe.data, draw=draw))
    pool = armory.parts["test_memory"]
    images = load_memories(recipe, encoder, armory, "test_memory", 2, 3).images
    expected_shots = draw_shots(pool, 2, 3) if draw == "coop" else first_shots(pool, 2)
    assert draw_shots(pool, 2, 3) != first_shots(pool, 2)
    assert [entry.key for entry in images.entries] == [sample.key for sample in expected_shots]


def test_a_class_is_also_found_by_its_synonyms(encoder, tmp_path):
    names, args = ("azure, a bend or", "gules"), RetrieverArgs(templates=["{}"])
    memory = name_memory(encoder, [0, 1], names, args, tmp_path, {1: ("sable", "vert, a fess argent")})
    assert [(entry.label, entry.key) for entry in memory.entries] == [
        (0, "azure, a bend or"),
        (1, "gules"),
        (1, "sable"),
        (1, "vert, a fess argent"),
    ]
    xq = embed_names(encoder, ["vert, a fess argent"], args, tmp_path)
    (candidates,) = Memories(None, memory).candidates("name", xq, 2, args, names)
    assert [candidate.name for candidate in candidates] == ["gules", "azure, a bend or"]
    assert candidates[0].score == pytest.approx(1, abs=1e-5)


def test_two_commands_that_build_the_same_memory_leave_it_intact(encoder, tmp_path, monkeypatch):
    names, args = ("azure", "gules", "sable"), RetrieverArgs(templates=["{}"])
    write, build = memory.write_manifest, Memory.build

    def finish_another_build_first(path, value):
        monkeypatch.setattr(memory, "write_manifest", write)
        # Its index has other bytes, like a graph built by several threads.
        monkeypatch.setattr(Memory, "build", lambda vectors, entries, *rest: build(vectors[::-1], entries[::-1], *rest))
        name_memory(encoder, range(3), names, args, tmp_path)
        write(path, value)

    monkeypatch.setattr(memory, "write_manifest", finish_another_build_first)
    for _ in range(2):
        built = name_memory(encoder, range(3), names, args, tmp_path)
        assert sorted(entry.key for entry in built.entries) == sorted(names)
    assert not list(tmp_path.glob(".memory-*"))


def test_a_damaged_cached_memory_is_rebuilt_after_the_suggested_deletion(encoder, tmp_path):
    names, args = ("azure", "gules", "sable"), RetrieverArgs(templates=["{}"])
    original = name_memory(encoder, range(3), names, args, tmp_path)
    (folder,) = tmp_path.glob("memory-*")
    for file in [path.name for path in folder.iterdir()]:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data.replace(b"3", b"4", 1) if file == "manifest.json" else data[:-3] + b"abc")
        with pytest.raises(UserError, match=rf"{file}: .*damaged.*; delete {folder} to have it built again"):
            name_memory(encoder, range(3), names, args, tmp_path)
        shutil.rmtree(folder)
        rebuilt = name_memory(encoder, range(3), names, args, tmp_path)
        assert rebuilt.entries == original.entries
        assert np.array_equal(rebuilt.vectors(range(3)), original.vectors(range(3)))


def test_numbers_added_to_repeated_class_names_are_left_out_of_the_prompts(recipe, encoder, monkeypatch):
    """Images of "missile (2)" show a missile; a class whose original name has a number keeps its text."""
    classes = ("missile", "crane", "missile", "crane (2)", "crane")
    samples = [Sample(f"s{label}", "", label, f"d{label}") for label in range(5)]
    monkeypatch.setitem(READERS, "folder", lambda *_: Dataset("twins", classes, {"test_memory": samples}))
    dataset = read_dataset(DataArgs(name="folder"), Path(recipe.cache), ("test_memory",))
    assert dataset.names == ("missile", "crane", "missile (2)", "crane (2)", "crane (3)")
    assert dataset.texts == classes
    memory = load_memories(recipe, encoder, dataset, "test_memory", 0, 0).names
    assert [entry.key for entry in memory.entries] == list(dataset.names)
    vectors = memory.vectors(range(5))
    assert np.array_equal(vectors[0], vectors[2]) and np.array_equal(vectors[1], vectors[4])
    assert abs(vectors[3] @ vectors[1]) < 0.9999
    # The same names without numbers to leave out give another memory, not this one from the cache.
    literal = load_memories(recipe, encoder, replace(dataset, unnumbered=()), "test_memory", 0, 0).names
    assert not np.array_equal(literal.vectors([2]), vectors[2:3])


def write_descriptions(path: Path, texts: dict) -> str:
    path.write_text(json.dumps(texts), encoding="utf-8")
    return str(path)


def test_a_file_of_descriptions_changes_how_classes_are_retrieved_by_name(recipe, encoder, armory, tmp_path):
    images, labels = armory.parts["test"], armory.labels("test_memory")
    xq = embed_images(encoder, images, recipe.retriever, Path(recipe.cache))
    one, other = (armory.names[label] for label in labels[:2])
    # Each of two classes is described by the other's name, so much that their names swap places.
    file = write_descriptions(tmp_path / "texts.json", {one: [other] * 9, other: [one] * 9})
    described = replace(recipe, data=replace(recipe.data, descriptions=file))

    def top(recipe: Recipe) -> list[str]:
        dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
        names = load_memories(recipe, encoder, dataset, "test_memory", 0, 0)
        return [row[0].name for row in names.candidates("name", xq, 1, recipe.retriever, dataset.names)]

    swapped = {one: other, other: one}
    assert {one, other} <= set(top(recipe))
    assert top(described) == [swapped.get(name, name) for name in top(recipe)]
    assert top(replace(described, retriever=RetrieverArgs(descriptions=False))) == top(recipe)


def test_a_described_class_has_the_mean_of_its_name_and_its_texts(recipe, encoder, armory, tmp_path):
    labels = armory.labels("test_memory")
    texts = {labels[1]: ("a bend or", "gules")}
    cache = Path(recipe.cache)
    plain, described, again = (
        name_memory(encoder, labels, armory.names, RetrieverArgs(templates=["{}", "a {}"]), cache, descriptions=given)
        for given in (None, texts, {labels[1]: ("gules", "a bend or", "or")})
    )
    rows = range(len(labels))
    mean = plain.vectors([1])[0] + embed_names(encoder, texts[labels[1]], RetrieverArgs(), tmp_path).sum(0)
    np.testing.assert_allclose(described.vectors([1])[0], mean / np.linalg.norm(mean), atol=1e-6)
    unchanged = [row for row in rows if row != 1]
    np.testing.assert_array_equal(described.vectors(unchanged), plain.vectors(unchanged))
    assert np.abs(again.vectors([1]) - described.vectors([1])).max() > 1e-3  # another text, another memory in the cache
    digests = [[entry.digest for entry in memory.entries] for memory in (plain, described, again)]
    assert len({tuple(row) for row in digests}) == 3 and not any(digests[0])


@pytest.mark.parametrize("given", ["nowhere.json", "own"])
def test_descriptions_that_are_not_there_are_an_error(given, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"data\.descriptions"):
        read_dataset(DataArgs(name="folder", root=str(tmp_path / "images"), descriptions=given), tmp_path, ("train",))
