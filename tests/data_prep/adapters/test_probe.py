"""The linear probe minimises CLAP's objective: against the formulas, against SciPy, and against scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from data_prep.adapters.probe import _Objective, class_penalties, fit_probe, minimise
from data_prep.adapters.support import IMAGE_SCALE, make_support

CPU = torch.device("cpu")


def reference_objective(support, weights: np.ndarray, penalties: np.ndarray) -> float:
    logs = log_softmax(support.scale * support.xb.astype(float) @ weights.T, axis=1)
    cross_entropy = -logs[np.arange(len(support)), support.classes].mean()
    return cross_entropy + (penalties * ((weights - support.prototypes) ** 2).sum(1)).sum()


def test_a_classs_penalty_is_the_mean_zero_shot_probability_of_its_images(support):
    probabilities = softmax(support.scale * support.xb.astype(float) @ support.names.T, axis=1)
    expected = [probabilities[support.classes == c, c].mean() for c in range(len(support.labels))]
    np.testing.assert_allclose(class_penalties(support, CPU), expected, atol=1e-6)


def test_loss_and_gradient_are_those_of_the_objective(support):
    rng, penalties = np.random.default_rng(1), class_penalties(support, CPU)
    weights = support.names + 0.1 * rng.normal(size=support.names.shape).astype(np.float32)
    loss, gradient = _Objective(support, penalties, support.scale, CPU)(torch.from_numpy(weights))
    assert float(loss) == pytest.approx(reference_objective(support, weights.astype(float), penalties), rel=1e-6)
    step, direction = 1e-4, rng.normal(size=weights.shape)
    slope = (
        reference_objective(support, weights + step * direction, penalties)
        - reference_objective(support, weights - step * direction, penalties)
    ) / (2 * step)
    assert float((gradient.numpy() * direction).sum()) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
def test_the_weights_are_the_optimum(support, strength):
    penalties = strength * class_penalties(support, CPU).astype(float)
    shape, weights = support.names.shape, fit_probe(support, strength, CPU)

    def loss(flat: np.ndarray) -> float:
        return reference_objective(support, flat.reshape(shape), penalties)

    best = minimize(loss, support.names.ravel().astype(float), method="L-BFGS-B", options={"maxfun": 10**6})
    assert loss(weights.ravel().astype(float)) <= best.fun + 1e-6 * abs(best.fun)
    np.testing.assert_allclose(weights, best.x.reshape(shape), atol=2e-3)


def test_with_one_penalty_and_no_prototypes_it_is_scikit_learns_logistic_regression(support):
    """scikit-learn minimises C * sum of cross-entropy + |W|^2 / 2."""
    penalty = 0.05
    objective = _Objective(support, np.full(len(support.labels), penalty, np.float32), support.scale, CPU)
    objective.start = torch.zeros_like(objective.start)
    weights = minimise(objective)
    regression = LogisticRegression(C=1 / (2 * penalty * len(support)), fit_intercept=False, tol=1e-10, max_iter=10_000)
    regression.fit(support.scale * support.xb.astype(float), support.classes)
    np.testing.assert_allclose(weights, regression.coef_, atol=1e-4)


def test_blocks_do_not_change_the_objective(support, monkeypatch):
    penalties, weights = class_penalties(support, CPU), torch.from_numpy(support.names)
    objective = _Objective(support, penalties, support.scale, CPU)
    loss, gradient = objective(weights)
    objective.step = 7
    in_blocks = objective(weights)
    torch.testing.assert_close(in_blocks[0], loss)
    torch.testing.assert_close(in_blocks[1], gradient)


def test_a_class_without_images_keeps_its_name(support):
    without = support.subset(support.classes != 2)
    weights = fit_probe(without, 1.0, CPU)
    np.testing.assert_array_equal(weights[2], support.names[2])
    assert np.abs(weights - support.names)[[0, 1, 3]].max() > 1e-4


def test_without_names_it_starts_from_the_classes_mean_images(make_memories):
    support = make_support(make_memories(named=False))
    means = np.stack([support.xb[support.classes == c].mean(0) for c in range(len(support.labels))])
    np.testing.assert_allclose(support.prototypes, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)
    assert support.scale == IMAGE_SCALE
    np.testing.assert_allclose(fit_probe(support, 1e4, CPU), support.prototypes, atol=1e-3)
