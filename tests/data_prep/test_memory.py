"""The memory: exact search, and files that are refused unless they are whole and of the same encoder."""

import shutil

import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.files import read_json
from data_prep.memory import Entry, Memory


def unit_vectors(count: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def memory():
    entries = [Entry(n % 4, "image", f"key-{n}", f"{n:064x}") for n in range(11)] + [Entry(4, "name", "l’or, d'été")]
    return Memory.build(unit_vectors(12), entries, "encoder-a")


def test_search_finds_the_nearest_by_inner_product(memory):
    xq, xb = unit_vectors(5, seed=1), unit_vectors(12)
    similarities, ids = memory.search(xq, 4)
    expected = np.argsort(-(xq @ xb.T), axis=1)[:, :4]
    assert np.array_equal(ids, expected)
    assert similarities == pytest.approx(np.take_along_axis(xq @ xb.T, expected, 1), abs=1e-6)


def test_more_neighbours_than_entries_give_every_entry_once(memory):
    similarities, ids = memory.search(unit_vectors(2, seed=1), 50)
    assert similarities.shape == ids.shape == (2, 12)
    assert [sorted(row) for row in ids] == [list(range(12))] * 2


def test_searching_an_empty_memory_finds_nothing():
    empty = Memory.build(np.empty((0, 8), np.float32), [], "encoder-a")
    similarities, ids = empty.search(unit_vectors(3), 5)
    assert similarities.shape == ids.shape == (3, 0)


def test_no_queries_give_no_rows(memory):
    assert memory.search(unit_vectors(0), 5)[1].shape == (0, 5)


def test_stored_vectors_come_back_by_id(memory):
    assert np.array_equal(memory.vectors([7, 0, 7]), unit_vectors(12)[[7, 0, 7]])


def test_a_saved_memory_loads_as_it_was(memory, tmp_path):
    memory.save(tmp_path / "memory")
    loaded = Memory.load(tmp_path / "memory", "encoder-a")
    assert loaded.entries == memory.entries
    xq = unit_vectors(5, seed=1)
    for before, after in zip(memory.search(xq, 12), loaded.search(xq, 12), strict=True):
        assert np.array_equal(before, after)


def test_a_folder_moves_with_its_memory(memory, tmp_path):
    memory.save(tmp_path / "memory")
    shutil.move(tmp_path / "memory", tmp_path / "moved")
    assert len(Memory.load(tmp_path / "moved", "encoder-a").entries) == 12


def test_manifest_says_what_the_memory_is(memory, tmp_path):
    memory.save(tmp_path / "memory")
    manifest = read_json(tmp_path / "memory" / "manifest.json")
    assert (manifest["encoder"], manifest["dimension"], manifest["entries"]) == ("encoder-a", 8, 12)


def test_another_encoder_is_refused_and_both_are_named(memory, tmp_path):
    memory.save(tmp_path / "memory")
    with pytest.raises(UserError, match=r"encoder-a.*encoder-b.*build the memory again"):
        Memory.load(tmp_path / "memory", "encoder-b")


@pytest.mark.parametrize("name", ["index-*.faiss", "entries-*.jsonl"])
def test_a_damaged_or_missing_file_is_refused_by_name(memory, tmp_path, name):
    memory.save(tmp_path / "memory")
    (file,) = (tmp_path / "memory").glob(name)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=f"{file.name}: missing or damaged; delete"):
        Memory.load(tmp_path / "memory", "encoder-a")
    file.unlink()
    with pytest.raises(UserError, match=f"{file.name}: missing or damaged; delete"):
        Memory.load(tmp_path / "memory", "encoder-a")


def test_a_missing_memory_is_a_readable_error(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Memory.load(tmp_path / "nowhere", "encoder-a")


@pytest.mark.parametrize("bad", [2.0, 0.0, np.nan])
def test_vectors_that_are_not_of_unit_length_are_refused(bad):
    vectors = unit_vectors(3)
    vectors[1] *= bad
    with pytest.raises(ValueError, match="unit length"):
        Memory.build(vectors, [Entry(0, "image", str(n)) for n in range(3)], "encoder-a")


def test_counts_of_vectors_and_entries_must_agree():
    with pytest.raises(ValueError, match="3 vectors for 1 entries"):
        Memory.build(unit_vectors(3), [Entry(0, "image", "a")], "encoder-a")


@pytest.mark.parametrize("name", ["a\u2028b", "a\x85b"])
def test_names_with_unusual_line_breaks_survive_saving(tmp_path, name):
    memory = Memory.build(unit_vectors(1), [Entry(0, "name", name)], "encoder-a")
    memory.save(tmp_path / "memory")
    assert Memory.load(tmp_path / "memory", "encoder-a").entries == memory.entries
