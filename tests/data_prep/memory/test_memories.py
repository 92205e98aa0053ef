"""Memories are asked with the prompts of the data set, and drawn as the recipe says."""

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

OWN = ("a shield: {}.", "{}, painted")


@pytest.fixture
def recipe(small_armory_args, tmp_path):
    return Recipe("ranker", "run", str(tmp_path / "cache"), data=small_armory_args)


def name_vectors(recipe, encoder, dataset) -> np.ndarray:
    names = load_memories(recipe, encoder, dataset, "test_memory", 0, 0).names
    return names.vectors(range(len(names.entries)))


def expected(encoder, dataset, templates, cache) -> np.ndarray:
    names = [dataset.names[label] for label in dataset.labels("test_memory")]
    return embed_names(encoder, names, RetrieverArgs(templates=list(templates)), cache)


def test_names_stand_in_the_data_sets_prompts_unless_the_recipe_has_its_own(recipe, encoder, armory, tmp_path):
    prompted = replace(armory, templates=OWN)
    bare, own, other = (expected(encoder, armory, t, tmp_path) for t in (("{}",), OWN, ("a {}",)))
    assert np.abs(bare - own).max() > 1e-3
    np.testing.assert_allclose(name_vectors(recipe, encoder, armory), bare, atol=1e-6)
    np.testing.assert_allclose(name_vectors(recipe, encoder, prompted), own, atol=1e-6)
    chosen = replace(recipe, retriever=RetrieverArgs(templates=["a {}"]))
    np.testing.assert_allclose(name_vectors(chosen, encoder, prompted), other, atol=1e-6)


@pytest.mark.parametrize("draw", ["coop", "first_n"])
def test_shots_are_drawn_as_the_recipe_says(recipe, encoder, armory, draw):
    recipe = replace(recipe, data=replace(recipe.data, draw=draw))
    pool = armory.parts["test_memory"]
    held = load_memories(recipe, encoder, armory, "test_memory", 2, 3).images
    drawn = draw_shots(pool, 2, 3) if draw == "coop" else first_shots(pool, 2)
    assert draw_shots(pool, 2, 3) != first_shots(pool, 2)
    assert [entry.key for entry in held.entries] == [sample.key for sample in drawn]


def test_a_class_is_found_by_its_synonyms_too(encoder, tmp_path):
    names, args = ("azure, a bend or", "gules"), RetrieverArgs(templates=["{}"])
    memory = name_memory(encoder, [0, 1], names, args, tmp_path, {1: ("sable", "vert, a fess argent")})
    assert [(entry.label, entry.key) for entry in memory.entries] == [
        (0, "azure, a bend or"),
        (1, "gules"),
        (1, "sable"),
        (1, "vert, a fess argent"),
    ]
    xq = embed_names(encoder, ["vert, a fess argent"], args, tmp_path)
    (found,) = Memories(None, memory).candidates("name", xq, 2, args, names)
    assert [candidate.name for candidate in found] == ["gules", "azure, a bend or"]
    assert found[0].score == pytest.approx(1, abs=1e-5)


def test_two_commands_that_make_one_memory_at_once_leave_it_whole(encoder, tmp_path, monkeypatch):
    names, args = ("azure", "gules", "sable"), RetrieverArgs(templates=["{}"])
    write, build = memory.write_manifest, Memory.build

    def the_other_is_faster(path, value):
        monkeypatch.setattr(memory, "write_manifest", write)
        # Its index has other bytes, as a graph that several threads build has.
        monkeypatch.setattr(Memory, "build", lambda vectors, entries, *rest: build(vectors[::-1], entries[::-1], *rest))
        name_memory(encoder, range(3), names, args, tmp_path)
        write(path, value)

    monkeypatch.setattr(memory, "write_manifest", the_other_is_faster)
    for _ in range(2):
        held = name_memory(encoder, range(3), names, args, tmp_path)
        assert sorted(entry.key for entry in held.entries) == sorted(names)
    assert not list(tmp_path.glob(".memory-*"))


def test_a_damaged_memory_of_a_cache_is_made_again_as_the_error_says(encoder, tmp_path):
    names, args = ("azure", "gules", "sable"), RetrieverArgs(templates=["{}"])
    held = name_memory(encoder, range(3), names, args, tmp_path)
    (folder,) = tmp_path.glob("memory-*")
    for file in [path.name for path in folder.iterdir()]:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data.replace(b"3", b"4", 1) if file == "manifest.json" else data[:-3] + b"abc")
        with pytest.raises(UserError, match=rf"{file}: .*damaged.*; delete {folder} to have it built again"):
            name_memory(encoder, range(3), names, args, tmp_path)
        shutil.rmtree(folder)
        again = name_memory(encoder, range(3), names, args, tmp_path)
        assert again.entries == held.entries
        assert np.array_equal(again.vectors(range(3)), held.vectors(range(3)))


def test_numbers_of_classes_of_one_name_stay_out_of_the_prompts(recipe, encoder, monkeypatch):
    """What is shown of "missile (2)" is a missile; a class that is really called so keeps its text."""
    classes = ("missile", "crane", "missile", "crane (2)", "crane")
    samples = [Sample(f"s{label}", "", label, f"d{label}") for label in range(5)]
    monkeypatch.setitem(READERS, "folder", lambda *_: Dataset("twins", classes, {"test_memory": samples}))
    read = read_dataset(DataArgs(name="folder"), Path(recipe.cache), ("test_memory",))
    assert read.names == ("missile", "crane", "missile (2)", "crane (2)", "crane (3)")
    assert read.texts == classes
    memory = load_memories(recipe, encoder, read, "test_memory", 0, 0).names
    assert [entry.key for entry in memory.entries] == list(read.names)
    vectors = memory.vectors(range(5))
    assert np.array_equal(vectors[0], vectors[2]) and np.array_equal(vectors[1], vectors[4])
    assert abs(vectors[3] @ vectors[1]) < 0.9999
    # The same names without numbers to leave out are another memory, not this one from the cache.
    real = load_memories(recipe, encoder, replace(read, unnumbered=()), "test_memory", 0, 0).names
    assert not np.array_equal(real.vectors([2]), vectors[2:3])
