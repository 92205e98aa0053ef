"""Bootstrap intervals: what they hold, how wide they are, and how often they cover the truth."""

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
def test_an_interval_holds_the_mean_keeps_to_its_range_and_is_never_a_point(rows):
    *values, groups = (np.array(column) for column in zip(*rows, strict=True))
    mean, low, high = bootstrap_interval(np.stack(values), groups, 200)
    assert mean == pytest.approx(np.mean(values))
    assert -1 <= low <= mean <= high <= 1
    assert low < high


def test_many_classes_give_the_width_that_theory_gives():
    differences = np.random.default_rng(0).normal(0.3, 0.1, 400)
    _, low, high = bootstrap_interval(differences, np.arange(400), 4000)
    assert (high - low) == pytest.approx(2 * 1.96 * differences.std() / np.sqrt(400), rel=0.1)
    assert low < 0.3 < high


@pytest.mark.parametrize("classes", [7, 12])
def test_few_classes_give_the_width_of_students_t(classes):
    """Normal means: the bootstrap's variance is that of n - 1 over n, and t stands for the normal quantile."""
    means = norm.ppf((np.arange(classes) + 0.5) / classes) / 10
    _, low, high = bootstrap_interval(np.repeat(means, 5), np.repeat(np.arange(classes), 5), 20_000)
    wanted = 2 * t.ppf(0.975, classes - 1) * means.std(ddof=1) / np.sqrt(classes)
    assert (high - low) == pytest.approx(wanted, rel=0.08)


def test_copies_of_images_do_not_narrow_an_interval():
    differences, groups = np.random.default_rng(0).normal(0, 0.2, 30), np.arange(30)
    once = bootstrap_interval(differences, groups, 500)
    often = bootstrap_interval(np.repeat(differences, 50), np.repeat(groups, 50), 500)
    assert often == pytest.approx(once)


def test_an_interval_repeats_with_its_seed():
    differences, groups = np.random.default_rng(0).normal(0, 0.2, 50), np.arange(50) % 10
    assert bootstrap_interval(differences, groups, 100, 1) == bootstrap_interval(differences, groups, 100, 1)
    assert bootstrap_interval(differences, groups, 100, 1) != bootstrap_interval(differences, groups, 100, 2)


def test_seeds_that_disagree_widen_an_interval_and_seeds_that_agree_do_not():
    one, groups = np.random.default_rng(0).normal(0, 0.2, 40), np.arange(40)
    alone = bootstrap_interval(one, groups, 500)
    assert bootstrap_interval(one[None], groups, 500) == alone
    assert bootstrap_interval(np.stack([one] * 3), groups, 500) == pytest.approx(alone)
    mean, low, high = bootstrap_interval(np.stack([one - 0.1, one, one + 0.1]), groups, 500)
    assert mean == pytest.approx(alone[0]) and high - low > 2 * (alone[2] - alone[1])
    # Two seeds that could not differ more say nothing.
    assert bootstrap_interval(np.repeat([[0.0], [1.0]], 40, axis=1), groups, 2000, bounds=SHARE) == (0.5, 0.0, 1.0)


def test_all_right_is_not_certain():
    """As many images as there are, less what few classes may hide: the exact binomial limit."""
    for classes, each in ((7, 20), (200, 1)):
        right, groups = np.ones(classes * each), np.repeat(np.arange(classes), each)
        mean, low, high = bootstrap_interval(right, groups, 4000, bounds=SHARE)
        worth = classes * each * (t.ppf(0.975, classes * each - 1) / t.ppf(0.975, classes - 1)) ** 2
        assert (mean, high) == (1, 1) and low == pytest.approx(0.025 ** (1 / worth), abs=0.01)
    mean, low, high = bootstrap_interval(np.zeros(140), np.repeat(np.arange(7), 20), 4000, bounds=SHARE)
    assert (mean, low) == (0, 0) and 0.02 < high < 0.06
    mean, low, high = bootstrap_interval(np.zeros(140), np.repeat(np.arange(7), 20), 4000)
    assert mean == 0 and low == pytest.approx(-high, abs=0.01) and 0.02 < high < 0.06


def test_one_class_has_an_interval_over_its_images():
    right = np.arange(100) < 80
    _, low, high = bootstrap_interval(right, np.zeros(100), 4000, bounds=SHARE)
    assert (low, high) == (pytest.approx(0.72, abs=0.02), pytest.approx(0.88, abs=0.02))
    assert bootstrap_interval(np.ones(1), np.zeros(1), 4000, bounds=SHARE)[1] < 0.05


def test_data_sets_are_averaged_with_their_own_doubts():
    """A data set without any spread adds little; one of three classes makes the average as uncertain as it is."""
    rng = np.random.default_rng(0)
    few = resample(rng.normal(0, 0.3, 3), np.arange(3), 2000)
    many = resample(rng.normal(0, 0.3, 300), np.arange(300), 2000)
    mean, low, high = interval([few, many], DIFFERENCE)
    assert mean == pytest.approx((few.mean + many.mean) / 2)
    alone = interval([few], DIFFERENCE)
    assert (high - low) == pytest.approx((alone[2] - alone[1]) / 2, rel=0.2)


def _coverage(classes: int, difference: bool, seeds: int, trials: int) -> float:
    """How often an interval holds the mean over all classes, where classes differ by a beta distribution."""
    rng, covered = np.random.default_rng(classes), 0
    groups = np.repeat(np.arange(classes), 20)
    for trial in range(trials):
        by_class = rng.beta(8, 4, classes)
        by_seed = np.clip(by_class + (rng.normal(0, 0.02, (seeds, 1)) if seeds > 1 else 0), 0, 1)
        hard = rng.random((classes, 20))  # an image that is hard is so by every seed
        values = (hard < by_seed.reshape(-1, classes, 1)).astype(float).reshape(seeds, -1)
        truth, bounds = 8 / 12, SHARE
        if difference:
            other = 0.9 * by_class + 0.1 * rng.beta(8, 4, classes)
            values -= (rng.random((classes, 20)) < other[:, None]).reshape(-1)
            truth, bounds = 0, DIFFERENCE
        _, low, high = bootstrap_interval(values, groups, 300, trial, bounds)
        covered += low <= truth <= high
    return covered / trials


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("classes", [7, 10, 37, 200])
def test_intervals_cover_the_truth_about_as_often_as_they_say(classes, difference, seeds):
    coverage = _coverage(classes, difference, seeds, 1000)
    print(f"{classes} classes, {'gain' if difference else 'share'}, {seeds} seeds: {100 * coverage:.1f} %")
    assert 0.91 <= coverage <= 0.99
