"""Exact search by products in torch, on the CPU, where it can be compared with FAISS everywhere."""

import pickle

import numpy as np
import pytest
import torch

from data_prep.memory import exact
from data_prep.memory.exact import search_device, search_vectors
from data_prep.memory.memory import Entry, Memory
from data_prep.memory.options import SearchOptions
from data_prep.memory.search import nearest_classes
from tests.data_prep.memory.test_memory import unit_vectors


def test_products_find_what_faiss_finds_in_any_number_of_blocks(monkeypatch):
    vectors, xq = unit_vectors(300), unit_vectors(70, seed=1)
    memory = Memory.build(vectors, [Entry(n, "image", str(n)) for n in range(300)], "encoder")
    expected = memory.search(xq, 9)
    for held in (2**25, 16 * 300):
        monkeypatch.setitem(exact._HELD, "cpu", held)
        found = search_vectors(memory.index.matrix(), xq, 9, torch.device("cpu"))
        assert found[0] == pytest.approx(expected[0], abs=1e-6)
        assert np.array_equal(found[1], expected[1])


def test_mixed_precision_around_a_search_does_not_round_it():
    vectors, xq = unit_vectors(50), unit_vectors(8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = search_vectors(vectors, xq, 50, torch.device("cpu"))
    assert found == pytest.approx(np.sort(xq @ vectors.T)[:, ::-1], abs=1e-6)


def test_a_gpu_is_taken_for_large_searches_that_fit_its_memory(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (80 * 10**9, 80 * 10**9))
    assert search_device(5_000, 160_000, 512, "auto").type == "cuda"
    assert search_device(1, 16_000, 512, "auto").type == "cpu"
    assert search_device(5_000, 160_000, 512, "cpu").type == "cpu"
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (10**9, 80 * 10**9))
    assert search_device(5_000, 160_000, 512, "auto").type == "cpu"


def test_a_memory_that_changed_is_searched_as_it_is_now():
    vectors = unit_vectors(40)
    memory = Memory.build(vectors[:30], [Entry(n, "image", str(n)) for n in range(30)], "encoder")
    memory.remove(np.arange(5))
    memory.add(vectors[30:], [Entry(n, "image", str(n)) for n in range(30, 40)])
    assert np.array_equal(memory.index.matrix(), vectors[5:])
    assert np.array_equal(memory.vectors([39, 5]), vectors[[39, 5]])


@pytest.mark.parametrize("aggregate", ["max", "prototype"])
def test_a_search_after_a_change_compares_with_the_entries_of_then(aggregate):
    """What a search prepares is kept with the memory, until its entries change."""
    vectors, xq, options = unit_vectors(40), unit_vectors(9, seed=1), SearchOptions(4, aggregate=aggregate)
    entries = [Entry(n % 12, "image", str(n), f"d{n}") for n in range(40)]
    memory = Memory.build(vectors[:30], entries[:30], "encoder")
    nearest_classes(memory, xq, 5, options)
    memory.add(vectors[30:], entries[30:])
    memory.remove(np.arange(7))
    found = nearest_classes(memory, xq, 5, options)
    expected = nearest_classes(Memory.build(vectors[7:], entries[7:], "encoder"), xq, 5, options)
    assert np.array_equal(found[1], expected[1]) and found[0] == pytest.approx(expected[0], abs=1e-6)
    assert np.array_equal(found[1], nearest_classes(pickle.loads(pickle.dumps(memory)), xq, 5, options)[1])


@pytest.mark.gpu
def test_a_full_gpu_leaves_the_search_to_the_cpu(monkeypatch, caplog):
    vectors, xq = unit_vectors(4000), unit_vectors(70, seed=1)
    memory = Memory.build(vectors, [Entry(n % 900, "image", str(n)) for n in range(4000)], "encoder")
    expected = nearest_classes(memory, xq, 5, SearchOptions(4)), memory.search(xq, 9)
    monkeypatch.setattr(exact, "_GPU_WORK", 0)
    try:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1e-6)
        found = nearest_classes(memory, xq, 5, SearchOptions(4)), memory.search(xq, 9)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "the GPU's memory is full" in caplog.text
    assert all(np.array_equal(mine[1], theirs[1]) for mine, theirs in zip(found, expected, strict=True))
