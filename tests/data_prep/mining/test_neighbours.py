"""Who may be whose neighbour: copies are found, halves are apart, and no query finds itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.records import Sample
from data_prep.memory.memories import Memories
from data_prep.memory.memory import Entry, Memory
from data_prep.mining.neighbours import NearCopies, Neighbours, group_copies, replace_digests, split_halves
from data_prep.settings import RetrieverArgs


def unit(rows) -> np.ndarray:
    vectors = np.asarray(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def world(count: int, classes: int, contents: int, seed: int):
    """Samples, some with equal contents, whose vectors are of as many dimensions as it takes to be apart."""
    rng = np.random.default_rng(seed)
    content = rng.integers(0, contents, count)
    samples = [Sample(f"s{n}", "", int(rng.integers(classes)), f"d{content[n]}") for n in range(count)]
    vectors = unit(rng.normal(size=(contents, 8)))[content]
    memory = Memory.build(vectors, [Entry(s.label, "image", s.key, s.digest) for s in samples], "e")
    return samples, vectors, memory


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 50), st.integers(0, 99), st.integers(1, 12))
def test_no_query_is_its_own_neighbour_nor_a_copys(count, classes, contents, seed, k):
    samples, vectors, memory = world(count, classes, contents, seed)
    near = NearCopies(memory, vectors, 0.999)(np.arange(count))
    copies = group_copies(samples, memory, near)
    names = [f"class {n}" for n in range(classes)]
    for unit_of in ("class", "image"):
        search = Neighbours(
            Memories(replace_digests(memory, copies.groups), None),
            "image",
            vectors,
            k,
            RetrieverArgs(initial_fetch=1, candidate_unit=unit_of),
            names,
            [copies.groups[s.digest] for s in samples],
        )
        for row, found in enumerate(search(np.arange(count))):
            like = vectors @ vectors[row]
            others = [n for n in range(count) if samples[n].digest != samples[row].digest]
            assert all(c.score < 0.9999 or max(like[others], default=0) >= 0.999 for c in found)
            if unit_of == "class":
                assert len({c.label for c in found}) == len(found)
                possible = {samples[n].label for n in others if like[n] < 0.999}
                assert len(found) >= min(k, len(possible)) or max(like[others], default=0) >= 0.999
            else:
                expected = np.sort([like[n] for n in others if like[n] < 0.999])[::-1][:k]
                if max(like[others], default=0) < 0.999:
                    np.testing.assert_allclose([c.score for c in found], expected, atol=1e-5)


def test_copies_encoded_anew_are_grouped_listed_and_counted_once():
    base = unit([[1, 0, 0], [1, 0.001, 0], [1, 0.002, 0], [0, 1, 0], [0, 0, 1]])
    samples = [Sample(f"s{n}", "", label, f"d{n}") for n, label in enumerate([0, 0, 1, 1, 2])]
    samples.append(Sample("s5", "", 2, "d4"))  # the bytes of s4
    vectors = np.concatenate([base, base[4:]])
    memory = Memory.build(vectors, [Entry(s.label, "image", s.key, s.digest) for s in samples], "e")
    copies = group_copies(samples, memory, NearCopies(memory, vectors, 0.9999)(np.arange(6)))
    assert copies.equal == 1
    assert {(one, other) for one, other, _ in copies.near} == {("s0", "s1"), ("s0", "s2"), ("s1", "s2")}
    assert copies.conflicting == 1  # s2 shows the picture of s0 and s1 under another class
    groups = [copies.groups[s.digest] for s in samples]
    assert groups[0] == groups[1] == groups[2] and len(set(groups)) == 3
    assert [e.digest for e in replace_digests(memory, copies.groups).entries] == groups
    assert [e.digest for e in memory.entries] == [s.digest for s in samples]


def test_more_copies_than_the_first_fetch_are_all_found():
    vectors = unit(np.ones((50, 4)))
    samples = [Sample(f"s{n}", "", 0, f"d{n}") for n in range(50)]
    memory = Memory.build(vectors, [Entry(0, "image", s.key, s.digest) for s in samples], "e")
    assert all(len(row) == 50 for row in NearCopies(memory, vectors, 0.99)(np.arange(50)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 9))
def test_halves_are_disjoint_whole_and_even_in_every_class(labels, seed):
    samples = [Sample(f"s{n}", "", label, f"d{n}") for n, label in enumerate(labels)]
    memory, queries = split_halves(samples, seed)
    assert sorted(s.key for s in memory + queries) == sorted(s.key for s in samples)
    for label in set(labels):
        held, asking = (sum(s.label == label for s in half) for half in (memory, queries))
        assert held - asking in (0, 1)
    assert split_halves(samples, seed) == (memory, queries)
