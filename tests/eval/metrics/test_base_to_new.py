"""Base-to-new figures: the harmonic mean is of the means, and its interval follows from both halves'."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.base_to_new import combine_halves, harmonic_mean, summarise_halves
from eval.metrics.intervals import SHARE, resample
from eval.metrics.summary import summarise

METHODS = {"clip_zero_shot": 0.5, "rar_untuned": 0.4, "rar": 0.8}
shares = st.floats(0, 1)


def hit_set(seed: int, accuracy: float = 1.0, classes: int = 10, images: int = 8):
    """Makes hits of three methods for two seeds of four shots."""
    rng = np.random.default_rng(seed)
    hits = {
        ("few_shot", 4, number, method): (rng.random(classes * images) < accuracy * share).astype(float)
        for number in (1, 2)
        for method, share in METHODS.items()
    }
    return hits, np.repeat(np.arange(classes), images)


@given(shares, shares)
def test_the_harmonic_mean_is_between_the_halves_and_nearer_to_the_lower_one(base, new):
    mean = harmonic_mean(base, new)
    assert min(base, new) - 1e-12 <= mean <= (base + new) / 2 + 1e-12
    assert mean == harmonic_mean(new, base)


def test_published_averages_are_reproduced():
    """Averages over eleven data sets of CLIP, CoOp, CoCoOp and MaPLe, from the table in MaPLe's README."""
    for base, new, h in ((69.34, 74.22, 71.7), (82.69, 63.22, 71.66), (80.47, 71.69, 75.83), (82.28, 75.14, 78.55)):
        assert 100 * harmonic_mean(base / 100, new / 100) == pytest.approx(h, abs=0.006)


def test_halves_are_those_of_the_ordinary_summary_and_h_is_of_their_means():
    base, new = hit_set(0), hit_set(1, 0.7)
    (part,) = summarise_halves([base], [new], 500)
    plain = [summarise([half], 500)[0]["methods"] for half in (base, new)]
    for method, halves in part["halves"].items():
        assert halves["base"] == {key: plain[0][method][key] for key in ("mean", "low", "high")}
        assert halves["new"]["mean"] == plain[1][method]["mean"]
        expected = harmonic_mean(plain[0][method]["mean"], plain[1][method]["mean"])
        assert halves["H"]["mean"] == part["methods"][method]["mean"] == pytest.approx(expected)
        assert halves["H"]["low"] < halves["H"]["mean"] < halves["H"]["high"]
    gain = part["rar_minus_retriever"]
    assert gain["reference"] == "clip_zero_shot"
    assert gain["mean"] == pytest.approx(part["methods"]["rar"]["mean"] - part["methods"]["clip_zero_shot"]["mean"])
    assert gain["low"] < gain["mean"] < gain["high"] and part["seeds"] == 2


def test_over_data_sets_h_is_the_harmonic_mean_of_the_averages():
    base, new = [hit_set(0), hit_set(1, 0.5)], [hit_set(2, 0.3), hit_set(3)]
    (part,) = summarise_halves(base, new, 100)
    means = {
        half: np.mean([of_set["few_shot", 4, seed, "rar"].mean() for of_set, _ in sets for seed in (1, 2)])
        for half, sets in (("base", base), ("new", new))
    }
    assert part["halves"]["rar"]["base"]["mean"] == pytest.approx(means["base"])
    assert part["methods"]["rar"]["mean"] == pytest.approx(harmonic_mean(means["base"], means["new"]))


def test_the_spread_of_h_is_that_of_linear_error_propagation():
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(60), 20)
    halves = [resample((rng.random(1200) < share).astype(float), classes, 4000, seed, SHARE) for seed, share in
              enumerate((0.8, 0.6))]  # fmt: skip
    joined = combine_halves(*halves)
    propagated = sum(variance for variance, _ in joined.spreads)
    assert joined.deviations.var() == pytest.approx(propagated, rel=0.1)


def test_a_half_that_is_all_wrong_gives_zero_with_an_interval():
    base, new = hit_set(0), hit_set(1, 0.0)
    (part,) = summarise_halves([base], [new], 200)
    h = part["halves"]["rar"]["H"]
    assert h["mean"] == 0 == h["low"] and 0 < h["high"] < 0.5
