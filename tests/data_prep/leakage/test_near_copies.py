"""Near-duplicate images are all found, grouped and counted."""

from __future__ import annotations

import numpy as np

from data_prep.core.records import Sample
from data_prep.leakage.near_copies import NearCopies, group_copies
from data_prep.memory.memory import Entry, Memory


def unit(rows) -> np.ndarray:
    vectors = np.asarray(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_reencoded_copies_are_grouped_listed_and_counted_once():
    base = unit([[1, 0, 0], [1, 0.001, 0], [1, 0.002, 0], [0, 1, 0], [0, 0, 1]])
    samples = [Sample(f"s{n}", "", label, f"d{n}") for n, label in enumerate([0, 0, 1, 1, 2])]
    samples.append(Sample("s5", "", 2, "d4"))  # the bytes of s4
    vectors = np.concatenate([base, base[4:]])
    memory = Memory.build(vectors, [Entry(s.label, "image", s.key, s.digest) for s in samples], "e")
    copies = group_copies(samples, memory, NearCopies(memory, vectors, 0.9999)(np.arange(6)))
    assert copies.equal == 1
    assert {(key, copy_key) for key, copy_key, _ in copies.near} == {("s0", "s1"), ("s0", "s2"), ("s1", "s2")}
    assert copies.conflicting == 1  # s2 shows the image of s0 and s1 under another class
    groups = [copies.groups[s.digest] for s in samples]
    assert groups[0] == groups[1] == groups[2] and len(set(groups)) == 3
    assert [e.digest for e in memory.with_digests(copies.groups).entries] == groups
    assert [e.digest for e in memory.entries] == [s.digest for s in samples]


def test_more_copies_than_the_first_fetch_are_all_found():
    vectors = unit(np.ones((50, 4)))
    samples = [Sample(f"s{n}", "", 0, f"d{n}") for n in range(50)]
    memory = Memory.build(vectors, [Entry(0, "image", s.key, s.digest) for s in samples], "e")
    assert all(len(row) == 50 for row in NearCopies(memory, vectors, 0.99)(np.arange(50)))
