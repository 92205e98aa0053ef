"""Bootstrap intervals: they contain the mean, have the right width, and cover the true value at the nominal rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from eval.metrics.intervals import DIFFERENCE, SHARE, bootstrap_interval, interval, resample


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda seeds: st.lists(
            st.tuples(*[st.sampled_from([-1.0, 0.0, 1.0])] * seeds, st.integers(0, 5)), min_size=1, max_size=60
        )
    )
)
def test_an_interval_contains_the_mean_stays_within_its_bounds_and_has_a_width(rows):
    *values, groups = (np.array(column) for column in zip(*rows, strict=True))
    mean, low, high = bootstrap_interval(np.stack(values), groups, 200)
    assert mean == pytest.approx(np.mean(values))
    assert -1 <= low <= mean <= high <= 1
    assert low < high


def test_with_many_classes_the_width_is_that_of_the_normal_approximation():
    differences = np.random.default_rng(0).normal(0.3, 0.1, 400)
    _, low, high = bootstrap_interval(differences, np.arange(400), 4000)
    assert (high - low) == pytest.approx(2 * 1.96 * differences.std() / np.sqrt(400), rel=0.1)
    assert low < 0.3 < high


@pytest.mark.parametrize("classes", [7, 12])
def test_with_few_classes_the_width_is_that_of_students_t(classes):
    """Normal means: the bootstrap's variance is corrected by n / (n - 1), and t replaces the normal quantile."""
    means = norm.ppf((np.arange(classes) + 0.5) / classes) / 10
    _, low, high = bootstrap_interval(np.repeat(means, 5), np.repeat(np.arange(classes), 5), 20_000)
    expected = 2 * t.ppf(0.975, classes - 1) * means.std(ddof=1) / np.sqrt(classes)
    assert (high - low) == pytest.approx(expected, rel=0.08)


def test_repeated_images_do_not_narrow_an_interval():
    differences, groups = np.random.default_rng(0).normal(0, 0.2, 30), np.arange(30)
    single = bootstrap_interval(differences, groups, 500)
    repeated = bootstrap_interval(np.repeat(differences, 50), np.repeat(groups, 50), 500)
    assert repeated == pytest.approx(single)


def test_an_interval_is_reproducible_by_its_seed():
    differences, groups = np.random.default_rng(0).normal(0, 0.2, 50), np.arange(50) % 10
    assert bootstrap_interval(differences, groups, 100, 1) == bootstrap_interval(differences, groups, 100, 1)
    assert bootstrap_interval(differences, groups, 100, 1) != bootstrap_interval(differences, groups, 100, 2)


def test_seeds_that_disagree_widen_an_interval_and_seeds_that_agree_do_not():
    values, groups = np.random.default_rng(0).normal(0, 0.2, 40), np.arange(40)
    single = bootstrap_interval(values, groups, 500)
    assert bootstrap_interval(values[None], groups, 500) == single
    assert bootstrap_interval(np.stack([values] * 3), groups, 500) == pytest.approx(single)
    mean, low, high = bootstrap_interval(np.stack([values - 0.1, values, values + 0.1]), groups, 500)
    assert mean == pytest.approx(single[0]) and high - low > 2 * (single[2] - single[1])
    # Two seeds that differ as much as possible give no information.
    assert bootstrap_interval(np.repeat([[0.0], [1.0]], 40, axis=1), groups, 2000, bounds=SHARE) == (0.5, 0.0, 1.0)


def test_the_interval_has_a_width_where_all_images_are_right():
    """The exact binomial limit, for the effective number of images under few classes."""
    for classes, per_class in ((7, 20), (200, 1)):
        right, groups = np.ones(classes * per_class), np.repeat(np.arange(classes), per_class)
        mean, low, high = bootstrap_interval(right, groups, 4000, bounds=SHARE)
        images = classes * per_class
        effective = images * (t.ppf(0.975, images - 1) / t.ppf(0.975, classes - 1)) ** 2
        assert (mean, high) == (1, 1) and low == pytest.approx(0.025 ** (1 / effective), abs=0.01)
    mean, low, high = bootstrap_interval(np.zeros(140), np.repeat(np.arange(7), 20), 4000, bounds=SHARE)
    assert (mean, low) == (0, 0) and 0.02 < high < 0.06
    mean, low, high = bootstrap_interval(np.zeros(140), np.repeat(np.arange(7), 20), 4000)
    assert mean == 0 and low == pytest.approx(-high, abs=0.01) and 0.02 < high < 0.06


def test_with_one_class_the_interval_is_over_its_images():
    right = np.arange(100) < 80
    _, low, high = bootstrap_interval(right, np.zeros(100), 4000, bounds=SHARE)
    assert (low, high) == (pytest.approx(0.72, abs=0.02), pytest.approx(0.88, abs=0.02))
    assert bootstrap_interval(np.ones(1), np.zeros(1), 4000, bounds=SHARE)[1] < 0.05


def test_the_average_over_data_sets_keeps_the_uncertainty_of_each():
    """A data set of many classes adds little; one of three classes dominates the uncertainty of the average."""
    rng = np.random.default_rng(0)
    few = resample(rng.normal(0, 0.3, 3), np.arange(3), 2000)
    many = resample(rng.normal(0, 0.3, 300), np.arange(300), 2000)
    mean, low, high = interval([few, many], DIFFERENCE)
    assert mean == pytest.approx((few.mean + many.mean) / 2)
    single = interval([few], DIFFERENCE)
    assert (high - low) == pytest.approx((single[2] - single[1]) / 2, rel=0.2)


def _coverage(classes: int, difference: bool, seeds: int, trials: int) -> float:
    """Returns how often an interval contains the mean over all classes, which follow a beta distribution."""
    rng, covered = np.random.default_rng(classes), 0
    groups = np.repeat(np.arange(classes), 20)
    for trial in range(trials):
        by_class = rng.beta(8, 4, classes)
        by_seed = np.clip(by_class + (rng.normal(0, 0.02, (seeds, 1)) if seeds > 1 else 0), 0, 1)
        difficulty = rng.random((classes, 20))  # the same for every seed
        values = (difficulty < by_seed.reshape(-1, classes, 1)).astype(float).reshape(seeds, -1)
        truth, bounds = 8 / 12, SHARE
        if difference:
            baseline = 0.9 * by_class + 0.1 * rng.beta(8, 4, classes)
            values -= (rng.random((classes, 20)) < baseline[:, None]).reshape(-1)
            truth, bounds = 0, DIFFERENCE
        _, low, high = bootstrap_interval(values, groups, 300, trial, bounds)
        covered += low <= truth <= high
    return covered / trials


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("classes", [7, 10, 37, 200])
def test_intervals_cover_the_true_value_at_about_the_nominal_rate(classes, difference, seeds):
    coverage = _coverage(classes, difference, seeds, 1000)
    print(f"{classes} classes, {'gain' if difference else 'share'}, {seeds} seeds: {100 * coverage:.1f} %")
    assert 0.91 <= coverage <= 0.99
