"""Memories of random clusters."""

import numpy as np
import pytest

from data_prep.adapters.support import make_support
from data_prep.memory.memories import Memories
from data_prep.memory.memory import Entry, Memory


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def make_memories():
    """Makes memories of clusters, shuffled: labels 3, 5, 7 and so on, with images and names near their centres."""

    def make(classes=6, shots=4, dimension=16, seed=0, noise=0.9, named=True) -> Memories:
        rng = np.random.default_rng(seed)
        centres = unit(rng.normal(size=(classes, dimension)))
        labels = rng.permutation(np.repeat(np.arange(classes), shots))
        xb = unit(centres[labels] + noise * unit(rng.normal(size=(len(labels), dimension))))
        entries = [Entry(2 * label + 3, "image", f"{row}", f"digest{row}") for row, label in enumerate(labels.tolist())]
        images = Memory.build(xb, entries, "encoder")
        if not named:
            return Memories(images, None)
        names = unit(centres + noise * unit(rng.normal(size=centres.shape)))
        return Memories(
            images, Memory.build(names, [Entry(2 * c + 3, "name", f"class {c}") for c in range(classes)], "encoder")
        )

    return make


@pytest.fixture
def memories(make_memories):
    return make_memories()


@pytest.fixture
def support(memories):
    return make_support(memories)


@pytest.fixture(scope="session")
def xq():
    return unit(np.random.default_rng(9).normal(size=(40, 16)))
