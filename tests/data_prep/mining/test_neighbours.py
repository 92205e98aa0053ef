"""Searches exclude each query and its copies, and the halves of a split are disjoint."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.records import Sample
from data_prep.leakage.near_copies import NearCopies, group_copies
from data_prep.memory.memories import Memories
from data_prep.memory.memory import Entry, Memory
from data_prep.mining.neighbours import Neighbours, split_halves
from data_prep.settings import RetrieverArgs


def unit(rows) -> np.ndarray:
    vectors = np.asarray(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_samples(count: int, classes: int, contents: int, seed: int):
    """Returns samples, some of equal content, their vectors and a memory; 8 dimensions keep contents apart."""
    rng = np.random.default_rng(seed)
    content = rng.integers(0, contents, count)
    samples = [Sample(f"s{n}", "", int(rng.integers(classes)), f"d{content[n]}") for n in range(count)]
    vectors = unit(rng.normal(size=(contents, 8)))[content]
    memory = Memory.build(vectors, [Entry(s.label, "image", s.key, s.digest) for s in samples], "e")
    return samples, vectors, memory


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 50), st.integers(0, 99), st.integers(1, 12))
def test_no_query_retrieves_itself_or_a_copy(count, classes, contents, seed, k):
    samples, vectors, memory = make_samples(count, classes, contents, seed)
    near = NearCopies(memory, vectors, 0.999)(np.arange(count))
    copies = group_copies(samples, memory, near)
    names = [f"class {n}" for n in range(classes)]
    for candidate_unit in ("class", "image"):
        search = Neighbours(
            Memories(memory.with_digests(copies.groups), None),
            "image",
            vectors,
            k,
            RetrieverArgs(initial_fetch=1, candidate_unit=candidate_unit),
            names,
            [copies.groups[s.digest] for s in samples],
        )
        for row, candidates in enumerate(search(np.arange(count))):
            similarities = vectors @ vectors[row]
            others = [n for n in range(count) if samples[n].digest != samples[row].digest]
            assert all(c.score < 0.9999 or max(similarities[others], default=0) >= 0.999 for c in candidates)
            if candidate_unit == "class":
                assert len({c.label for c in candidates}) == len(candidates)
                possible = {samples[n].label for n in others if similarities[n] < 0.999}
                assert len(candidates) >= min(k, len(possible)) or max(similarities[others], default=0) >= 0.999
            else:
                expected = np.sort([similarities[n] for n in others if similarities[n] < 0.999])[::-1][:k]
                if max(similarities[others], default=0) < 0.999:
                    np.testing.assert_allclose([c.score for c in candidates], expected, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 9))
def test_halves_are_disjoint_complete_and_even_in_every_class(labels, seed):
    samples = [Sample(f"s{n}", "", label, f"d{n}") for n, label in enumerate(labels)]
    memory, queries = split_halves(samples, seed)
    assert sorted(s.key for s in memory + queries) == sorted(s.key for s in samples)
    for label in set(labels):
        in_memory, in_queries = (sum(s.label == label for s in half) for half in (memory, queries))
        assert in_memory - in_queries in (0, 1)
    assert split_halves(samples, seed) == (memory, queries)
