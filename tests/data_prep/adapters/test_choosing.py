"""Hyperparameters are the best of the grid on validation images, over all seeds, and are kept in the cache."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from data_prep.adapters import choosing
from data_prep.adapters.choosing import Validation, choose_for_memories, choose_hyperparameters, count_hits
from data_prep.adapters.fits import fit_model
from data_prep.adapters.hyperparameters import EPOCHS, Hyperparameters
from data_prep.adapters.probe import STRENGTHS
from data_prep.adapters.support import make_support
from data_prep.adapters.tip import ALPHAS, BETAS, CacheModel, tune_keys
from data_prep.settings import ADAPTERS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def by_seed(make_memories):
    """Two draws of the same classes, and 60 validation images of theirs."""
    memories = [make_memories(classes=8, shots=3, seed=0, noise=1.6)]
    rng = np.random.default_rng(4)
    images = memories[0].images
    queries = images.vectors(images.ids[np.tile(np.arange(24), 3)[:60]]) + 0.25 * rng.normal(size=(60, 16))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    truths = images.labels[np.tile(np.arange(24), 3)[:60]]
    half = images.ids[np.arange(24) % 3 < 2]
    vectors, entries = images.vectors(half), [images.entries[i] for i in images.rows(half)]
    memories.append(replace(memories[0], images=type(images).build(vectors, entries, "encoder")))
    return memories, queries, truths


@pytest.fixture
def validation(by_seed, tmp_path):
    memories, queries, truths = by_seed
    return Validation([make_support(m) for m in memories], queries, truths, tmp_path, "cpu")


def accuracy(validation, name: str, settings: Hyperparameters) -> float:
    hits = 0
    for support in validation.supports:
        queries = torch.from_numpy(validation.xq)
        model = fit_model(name, support, settings, validation.cache, "cpu", CPU)
        best = support.labels[model.logits(queries, queries).argmax(0).numpy()]
        hits += int((best == validation.truths).sum())
    return hits / len(validation.truths)


def test_hits_are_counted_for_every_pair(validation):
    support = validation.supports[0]
    model = CacheModel(support, torch.from_numpy(support.xb), Hyperparameters())
    hits = count_hits(model, validation.xq, validation.positions(support), ALPHAS[:3], BETAS[5:7])
    for (row, alpha), (column, beta) in product(enumerate(ALPHAS[:3]), enumerate(BETAS[5:7])):
        model.settings = Hyperparameters(alpha, beta)
        queries = torch.from_numpy(validation.xq)
        best = model.logits(queries, queries).argmax(0).numpy()
        assert hits[row, column] == (support.labels[best] == validation.truths).sum()


def test_tips_alpha_and_beta_are_the_best_of_the_grid(validation):
    chosen = choose_hyperparameters("tip", validation)
    best = max(accuracy(validation, "tip", Hyperparameters(a, b)) for a, b in product(ALPHAS, BETAS))
    assert accuracy(validation, "tip", chosen) == best > accuracy(validation, "tip", Hyperparameters(alpha=0.0))


def test_tip_fs_epoch_is_the_best_at_the_papers_alpha_and_beta(validation):
    hits = np.zeros(EPOCHS)
    for support, epoch in product(validation.supports, range(1, EPOCHS + 1)):
        keys, queries = torch.from_numpy(tune_keys(support, epoch, CPU)), torch.from_numpy(validation.xq)
        best = CacheModel(support, keys, Hyperparameters()).logits(queries, queries).argmax(0).numpy()
        hits[epoch - 1] += (support.labels[best] == validation.truths).sum()
    chosen = choose_hyperparameters("tip_f", validation)
    assert chosen.epochs == hits.argmax() + 1
    grid = (Hyperparameters(a, b, chosen.epochs) for a, b in product(ALPHAS[::3], BETAS[::3]))
    assert accuracy(validation, "tip_f", chosen) >= max(accuracy(validation, "tip_f", s) for s in grid)


def test_the_probes_strength_is_the_best(validation):
    chosen = choose_hyperparameters("linear_probe", validation)
    settings = [Hyperparameters(strength=strength) for strength in STRENGTHS]
    assert accuracy(validation, "linear_probe", chosen) == max(
        accuracy(validation, "linear_probe", s) for s in settings
    )


def test_a_choice_is_kept_and_depends_on_the_images(validation, monkeypatch):
    chosen = choose_hyperparameters("tip", validation)
    monkeypatch.setattr(choosing, "count_hits", None)
    assert choose_hyperparameters("tip", validation) == chosen
    others = Validation(validation.supports, validation.xq[:-1], validation.truths[:-1], validation.cache, "cpu")
    assert others.identity("tip") != validation.identity("tip") != validation.identity("tip_f")


def test_with_few_images_the_papers_values_are_used(by_seed, tmp_path):
    memories, queries, truths = by_seed
    chosen = choose_for_memories(ADAPTERS, memories, queries, truths, tmp_path, "cpu", 61)
    assert chosen == {name: Hyperparameters().of(name) for name in ADAPTERS}
    assert not list(tmp_path.iterdir())
