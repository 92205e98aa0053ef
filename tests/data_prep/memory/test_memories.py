"""Image and name memories: the data set's prompts, shots sampled by the recipe, and caching."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.datasets import READERS, Dataset, read_dataset
from data_prep.datasets.shots import draw_shots, first_shots
from data_prep.embedding.encoder import embed_names
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
