"""The memory: search with every index, adding and removing entries, and verified files of the same encoder."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.memory.index import FLAT_MOST, KINDS, kind_for
from data_prep.memory.memory import Entry, Memory
from data_prep.memory.recall import recall_against_exact
from data_prep.settings import HnswArgs, IvfArgs, RetrieverArgs
from tests.commands import environment


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


def test_stored_vectors_are_returned_by_id(memory):
    assert np.array_equal(memory.vectors([7, 0, 7]), unit_vectors(12)[[7, 0, 7]])


def test_a_saved_memory_loads_as_it_was(memory, tmp_path):
    memory.save(tmp_path / "memory")
    loaded = Memory.load(tmp_path / "memory", "encoder-a")
    assert loaded.entries == memory.entries
    xq = unit_vectors(5, seed=1)
    for before, after in zip(memory.search(xq, 12), loaded.search(xq, 12), strict=True):
        assert np.array_equal(before, after)


def test_a_memory_loads_after_its_folder_was_moved(memory, tmp_path):
    memory.save(tmp_path / "memory")
    shutil.move(tmp_path / "memory", tmp_path / "moved")
    assert len(Memory.load(tmp_path / "moved", "encoder-a").entries) == 12


def test_the_manifest_describes_the_memory(memory, tmp_path):
    memory.save(tmp_path / "memory")
    manifest = read_json(tmp_path / "memory" / "manifest.json")
    assert (manifest["encoder"], manifest["dimension"], manifest["entries"]) == ("encoder-a", 8, 12)


def test_another_encoder_is_refused_and_both_are_named(memory, tmp_path):
    memory.save(tmp_path / "memory")
    with pytest.raises(UserError, match=r"encoder-a.*encoder-b.*build the memory again"):
        Memory.load(tmp_path / "memory", "encoder-b")


@pytest.mark.parametrize("name", ["index-*.faiss", "entries-*.jsonl"])
def test_an_error_names_a_damaged_or_missing_file(memory, tmp_path, name):
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


def retriever_args(kind: str, **settings) -> RetrieverArgs:
    """Returns settings with which even an approximate index of a few hundred entries is nearly exact."""
    return RetrieverArgs(index=kind, hnsw=HnswArgs(16, 64, 256), ivf=IvfArgs(nlist=4, nprobe=4), **settings)


def clustered(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, list[Entry]]:
    """Returns vectors scattered around one centre per class, as in a real memory."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    vectors = unit_vectors(classes, 16, seed)[labels] + 0.15 * rng.standard_normal((count, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, [Entry(int(label), "image", f"k{n}", f"{n:064x}") for n, label in enumerate(labels)]


@pytest.mark.parametrize("kind", KINDS)
def test_adding_and_removing_a_class_leaves_the_memory_unchanged(kind, tmp_path):
    vectors, entries = clustered(400, 20)
    memory = Memory.build(vectors, entries, "e", retriever_args(kind))
    xq = clustered(30, 20, seed=1)[0]
    before = memory.search(xq, 5)
    new = unit_vectors(6, 16, seed=7)
    ids = memory.add(new, [Entry(20, "image", f"new{n}") for n in range(6)])
    assert list(ids) == list(range(400, 406))
    assert sorted(memory.search(new[:1], 1)[1].ravel()) == [400]
    assert memory.vectors(ids) == pytest.approx(new)
    assert list(memory.ids_of(20)) == list(ids)
    assert memory.remove(memory.ids_of(20)) == 6
    assert memory.entries == tuple(entries)
    after = memory.search(xq, 5)
    assert np.array_equal(before[1], after[1])
    assert before[0] == pytest.approx(after[0], abs=1e-6)
    # Removed entries do not reappear after loading either, and their ids are never reused.
    memory.save(tmp_path / "memory")
    loaded = Memory.load(tmp_path / "memory", "e", retriever_args(kind))
    assert not np.isin(loaded.search(new, 50)[1], ids).any()
    assert list(loaded.add(new[:1], [Entry(21, "image", "later")])) == [406]


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_rebuilt_after_many_changes_where_its_kind_needs_it(kind, caplog):
    vectors, entries = clustered(300, 30)
    memory = Memory.build(vectors[:60], entries[:60], "e", retriever_args(kind))
    caplog.set_level("INFO", "data_prep")
    memory.add(vectors[60:], entries[60:])
    for label in range(20):
        memory.remove(memory.ids_of(label))
    remaining = [n for n, entry in enumerate(entries) if entry.label >= 20]
    assert list(memory.ids) == remaining
    xq = clustered(40, 30, seed=1)[0]
    expected = np.array(remaining)[np.argsort(-(xq @ vectors[remaining].T), axis=1)[:, :5]]
    assert (memory.search(xq, 5)[1] == expected).mean() > 0.97
    assert np.array_equal(memory.search(xq, 5, exact=True)[1], expected)
    message = {"flat": "", "hnsw": "rebuilding the hnsw index", "ivf": "rebuilding the ivf index"}[kind]
    assert message in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_tiny_memory_of_every_kind_returns_all_its_entries(kind, count, tmp_path):
    entries = [Entry(n, "name", str(n)) for n in range(count)]
    memory = Memory.build(unit_vectors(count, 16), entries, "e", retriever_args(kind))
    similarities, ids = memory.search(unit_vectors(2, 16, seed=1), 50)
    assert ids.shape == similarities.shape == (2, count)
    assert [sorted(row) for row in ids] == [list(range(count))] * 2
    memory.save(tmp_path / "m")
    grown = Memory.load(tmp_path / "m", "e", retriever_args(kind))
    grown.add(unit_vectors(2, 16, seed=5), [Entry(9, "name", "a"), Entry(9, "name", "b")])
    assert grown.search(unit_vectors(2, 16, seed=5), 1)[1].ravel().tolist() == [count, count + 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mmap", [False, True])
def test_every_kind_loads_as_it_was_saved_with_and_without_mmap(kind, mmap, tmp_path):
    vectors, entries = clustered(300, 20)
    memory = Memory.build(vectors, entries, "e", retriever_args(kind), {"templates": ["a {}"]})
    memory.save(tmp_path / "memory")
    loaded = Memory.load(tmp_path / "memory", "e", retriever_args(kind, mmap=mmap))
    assert (loaded.entries, loaded.metadata, loaded.index.kind) == (memory.entries, {"templates": ["a {}"]}, kind)
    for before, after in zip(memory.search(vectors[:9], 7), loaded.search(vectors[:9], 7), strict=True):
        assert np.array_equal(before, after)
    assert np.array_equal(loaded.vectors([3, 5]), vectors[[3, 5]])
    (index,) = (tmp_path / "memory").glob("index-*.faiss")
    data = bytearray(index.read_bytes())
    data[-40] ^= 1
    (tmp_path / "memory" / "damaged").write_bytes(data)  # a new file: the loaded index may still map the old one
    (tmp_path / "memory" / "damaged").rename(index)
    with pytest.raises(UserError, match=f"{index.name}: missing or damaged"):
        Memory.load(tmp_path / "memory", "e", retriever_args(kind, mmap=mmap))
    if mmap:
        with pytest.raises(UserError, match=r"retriever\.mmap"):
            loaded.remove([3])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 4)), max_size=12), st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_any_sequence_of_additions_and_removals_equals_a_plain_dictionary(steps, kind):
    rng = np.random.default_rng(0)
    memory = Memory.build(np.empty((0, 8), np.float32), [], "e", retriever_args(kind))
    plain: dict[int, tuple[int, np.ndarray]] = {}
    for adds, label, count in steps:
        if adds:
            vectors = unit_vectors(count, 8, int(rng.integers(1 << 30)))
            ids = memory.add(vectors, [Entry(label, "image", "k")] * count)
            plain |= {int(i): (label, vector) for i, vector in zip(ids, vectors, strict=True)}
        else:
            removed = [i for i, (entry_label, _) in plain.items() if entry_label == label]
            assert memory.remove(memory.ids_of(label)) == len(removed)
            plain = {i: value for i, value in plain.items() if i not in removed}
    assert memory.ids.tolist() == list(plain)
    assert memory.labels.tolist() == [label for label, _ in plain.values()]
    xq = unit_vectors(3, 8, seed=99)
    scores, ids = memory.search(xq, len(plain) + 2)
    if plain:
        expected = np.sort(xq @ np.stack([vector for _, vector in plain.values()]).T, axis=1)[:, ::-1]
        assert scores == pytest.approx(expected, abs=1e-5)
        assert [sorted(row) for row in ids.tolist()] == [list(plain)] * 3


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/dev/full", "No space left on device"), ("missing/index.faiss", "No such file or directory")],
)
def test_an_error_of_writing_the_index_names_the_file_and_the_reason(memory, tmp_path, path, reason):
    with pytest.raises(UserError, match=f"{path}: not written: {reason}; fix that and run the command again"):
        memory.index.write(tmp_path / path)


def test_the_default_is_exact_until_it_would_be_slow():
    assert kind_for("auto", FLAT_MOST) == "flat"
    assert kind_for("auto", FLAT_MOST + 1) != "flat"
    assert kind_for("ivf", 3) == "ivf"


def test_recall_distinguishes_a_bad_index_from_a_good_one():
    vectors = unit_vectors(2000, 32)
    entries = [Entry(n, "image", str(n)) for n in range(2000)]
    exact = Memory.build(vectors, entries, "e", RetrieverArgs(index="flat"))
    assert recall_against_exact(exact, 5, 100)["recall"] == 1
    coarse = Memory.build(vectors, entries, "e", RetrieverArgs(index="ivf", ivf=IvfArgs(nlist=40, nprobe=1)))
    fine = Memory.build(vectors, entries, "e", RetrieverArgs(index="ivf", ivf=IvfArgs(nlist=40, nprobe=40)))
    assert recall_against_exact(coarse, 5, 100)["recall"] < 0.6
    assert recall_against_exact(fine, 5, 100)["recall"] == 1
    assert recall_against_exact(Memory.build(vectors[:1], entries[:1], "e"), 5, 100)["recall"] == 0


_SAVER = """
import sys
from pathlib import Path
import numpy as np
from data_prep.memory.memory import Entry, Memory
folder = Path(sys.argv[1])
x = np.eye(64, dtype=np.float32)
memories = [Memory.build(x[:n], [Entry(n, "image", str(i)) for i in range(n)], "e") for n in (40, 64)]
print("ready", flush=True)
while True:
    for memory in memories:
        memory.save(folder)
"""


def test_a_kill_at_any_moment_leaves_the_old_memory_or_the_new(tmp_path):
    for delay in (0.05, 0.1, 0.2, 0.4):
        saver = subprocess.Popen(
            [sys.executable, "-c", _SAVER, str(tmp_path / "memory")],
            env=environment() | {"PYTHONPATH": str(Path.cwd())},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert saver.stdout.readline() == "ready\n"
        time.sleep(delay)
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        memory = Memory.load(tmp_path / "memory", "e")
        assert {entry.label for entry in memory.entries} in ({40}, {64})
        assert len(memory) == memory.entries[0].label == memory.index.index.ntotal
