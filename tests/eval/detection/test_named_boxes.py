"""The retriever's probabilities against a naive softmax."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.memory.memories import to_candidates
from data_prep.memory.memory import Entry, Memory
from data_prep.memory.options import SearchOptions
from data_prep.memory.search import nearest_classes
from eval.detection.named_boxes import class_probabilities


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0.01, 0.1, 1.0]))
@settings(max_examples=30, deadline=None)
def test_probabilities_are_a_softmax_over_all_classes_by_their_nearest_names(seed, k, temperature):
    rng = np.random.default_rng(seed)
    labels = [4, 0, 2, 2, 1, 3, 0, 5]  # some classes have several names
    vectors = rng.normal(size=(len(labels) + 5, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names, xq = vectors[:8], vectors[8:]
    memory = Memory.build(names, [Entry(label, "name", str(n)) for n, label in enumerate(labels)], "encoder")
    candidates = to_candidates(*nearest_classes(memory, xq, k, SearchOptions(4)), "abcdef")
    by_query = class_probabilities(memory, xq, candidates, temperature)
    for query, row, probabilities in zip(xq, candidates, by_query, strict=True):
        similarities = {
            label: max(float(names[n] @ query) for n in np.flatnonzero(np.array(labels) == label)) for label in labels
        }
        total = sum(np.exp((value - max(similarities.values())) / temperature) for value in similarities.values())
        expected = [np.exp((similarities[c.label] - max(similarities.values())) / temperature) / total for c in row]
        assert probabilities == pytest.approx(expected, abs=1e-4)
        assert list(probabilities) == sorted(probabilities, reverse=True)
