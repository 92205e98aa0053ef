"""Tip-Adapter and Tip-Adapter-F equal the formulas of the paper and its training loop, written here once more."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_prep.adapters import tip
from data_prep.adapters.hyperparameters import EPOCHS, Hyperparameters
from data_prep.adapters.tip import CacheModel, sum_affinities, tune_keys

CPU = torch.device("cpu")


def reference_logits(support, keys: np.ndarray, xq: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """alpha * exp(-beta (1 - f F^T)) L + s f W^T, in float64."""
    one_hot = np.eye(len(support.labels))[support.classes]
    affinities = np.exp(-beta * (1 - xq.astype(float) @ keys.astype(float).T))
    return alpha * affinities @ one_hot + support.scale * xq.astype(float) @ support.names.astype(float).T


def reference_keys(support, epochs: int, batch: int) -> torch.Tensor:
    """The training loop of Tip-Adapter-F, with autograd."""
    x, y, names = map(torch.tensor, (support.xb, support.classes, support.names))
    keys, one_hot = torch.nn.Parameter(x.clone()), F.one_hot(y, len(names)).float()
    optimizer = torch.optim.AdamW([keys], lr=1e-3, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-len(x) // batch))
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=shuffle).split(batch):
            affinities = torch.exp(-5.5 * (1 - x[rows] @ keys.T))
            loss = F.cross_entropy(affinities @ one_hot + support.scale * x[rows] @ names.T, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return keys.detach()


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 5.5), (0.3, 20.0)])
def test_the_logits_are_those_of_the_paper(support, xq, alpha, beta):
    queries = torch.from_numpy(xq)
    model = CacheModel(support, torch.from_numpy(support.xb), Hyperparameters(alpha, beta))
    logits = model.logits(queries, queries).T.numpy()
    expected = reference_logits(support, support.xb, xq, alpha, beta)
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_affinities_are_summed_chunk_by_chunk(support, xq, monkeypatch):
    keys, classes, queries = torch.from_numpy(support.xb), torch.from_numpy(support.classes), torch.from_numpy(xq)
    hidden = np.array([0, 0, 3]), np.array([1, 20, 7])
    whole = sum_affinities(keys, classes, len(support.labels), queries, 4.0, hidden)
    monkeypatch.setattr(tip, "_CHUNK", 5)
    torch.testing.assert_close(sum_affinities(keys, classes, len(support.labels), queries, 4.0, hidden), whole)


def test_a_hidden_image_does_not_count(support, xq):
    keep = np.arange(len(support)) != 7
    queries = torch.from_numpy(xq[:1])
    hidden = np.array([0]), np.array([7])
    of_all = CacheModel(support, torch.from_numpy(support.xb), Hyperparameters()).logits(queries, queries, hidden)
    without = support.subset(keep)
    model = CacheModel(without, torch.from_numpy(without.xb), Hyperparameters())
    model.scale = support.scale
    torch.testing.assert_close(of_all, model.logits(queries, queries), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("epochs", [1, 3, EPOCHS])
def test_the_keys_are_those_of_the_papers_training_loop(support, monkeypatch, epochs):
    monkeypatch.setattr(tip, "_BATCH", 10)  # three steps an epoch, the last of them smaller
    tuned = tune_keys(support, epochs, CPU)
    assert np.abs(tuned - support.xb).max() > 1e-4
    np.testing.assert_allclose(tuned, reference_keys(support, epochs, 10).numpy(), atol=1e-6)
