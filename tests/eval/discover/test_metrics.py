"""Figures that are fast enough to resample equal the plain ones; intervals hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.clustering.scores import score_names
from eval.discover.metrics import Named, resample_metrics, score_predictions
from eval.metrics.intervals import SHARE, from_samples, interval

pairs = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("vwxyz")), min_size=1, max_size=30)


def embed(names):
    """A unit vector of its own for each letter, but a and v, which lie near each other."""
    vectors = np.eye(26)
    vectors[ord("v") - 97] = 0.6 * vectors[0] + 0.8 * vectors[25]
    return np.stack([vectors[ord(name[0]) - 97] for name in names])


@given(pairs)
@settings(max_examples=80, deadline=None)
def test_figures_equal_those_of_eval_clustering(pairs):
    predicted, true = (list(side) for side in zip(*pairs, strict=True))
    plain, fast = score_names(predicted, true, embed), Named.of(predicted, true, embed).metrics()
    assert list(fast) == ["cacc", "sacc", "nmi", "ari"]
    assert fast == pytest.approx({key: plain[key] for key in fast}, abs=1e-9)


@given(pairs, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_figures_on_some_images_are_those_of_the_images(pairs, random):
    predicted, true = (list(side) for side in zip(*pairs, strict=True))
    rows = [random.randrange(len(true)) for _ in true]
    plain = score_names([predicted[row] for row in rows], [true[row] for row in rows])
    fast = Named.of(predicted, true, None).metrics(np.array(rows))
    assert fast == pytest.approx({key: plain[key] for key in fast}, abs=1e-9)


def guessed(rng, share):
    """Twenty classes, of which so large a share of the images is named alike."""
    true = rng.integers(0, 20, 400)
    wrong = rng.random(400) > share
    return np.where(wrong, rng.integers(0, 20, 400), true).astype(str).tolist(), true.astype(str).tolist()


def test_intervals_hold_the_figure_and_its_neighbourhood():
    rng = np.random.default_rng(0)
    run = Named.of(*guessed(rng, 0.7), None)
    drawn, metrics = resample_metrics([run], 200), run.metrics()
    for key, value in metrics.items():
        _, low, high = interval([from_samples(value, drawn[key], 400, SHARE)], SHARE)
        assert low < value < high and high - low < 0.2
    # On samples NMI is higher, so much that its percentiles would not hold the figure.
    assert np.percentile(drawn["nmi"], 2.5) > metrics["nmi"]
    # Twenty images that are all named alike leave room for one of the next to be named otherwise.
    same = Named.of(["a", "b"] * 10, ["x", "y"] * 10, None)
    mean, low, high = interval([from_samples(1.0, resample_metrics([same], 2000)["cacc"], 20, SHARE)], SHARE)
    assert (mean, high) == (1, 1) and low == pytest.approx(0.025 ** (1 / 20), abs=0.02)


def line(method, seed, predicted, true, **more):
    return {"method": method, "seed": seed, "predicted": predicted, "true": true} | more


def test_predictions_are_scored_by_method_over_seeds_with_paired_gains_and_the_papers_figures():
    rng, lines = np.random.default_rng(1), []
    for seed in (1, 2):
        _, true = guessed(rng, 0)
        for method, share in (("clip_zero_shot", 0.5), ("rar_untuned", 0.8), ("rar", 0.8)):
            own = np.random.default_rng(seed)  # the same mistakes for both rankers
            named = [t if own.random() < share else str(own.integers(20)) for t in true]
            more = {} if method == "clip_zero_shot" else {"outcome": "ok"}
            lines += [line(method, seed, p, t, **more) for p, t in zip(named, true, strict=True)]
    found = score_predictions(lines, "cub200", None, 100)
    assert [(row["method"], row["seed"]) for row in found["rows"][:3]] == [
        ("clip_zero_shot", 1),
        ("clip_zero_shot", 2),
        ("rar_untuned", 1),
    ]
    assert found["rows"][-1]["outcomes"] == {"ok": 400} and "outcomes" not in found["rows"][0]
    by_method = {name: [r["cacc"] for r in found["rows"] if r["method"] == name] for name in found["summary"]}
    for name, values in by_method.items():
        own = found["summary"][name]["cacc"]
        assert own["mean"] == pytest.approx(np.mean(values)) and own["sd"] == pytest.approx(np.std(values, ddof=1))
        assert "sacc" not in found["summary"][name]
    gain = found["gains"]["rar_minus_clip_zero_shot"]["cacc"]
    assert gain["mean"] == pytest.approx(np.mean(by_method["rar"]) - np.mean(by_method["clip_zero_shot"]))
    assert 0 < gain["low"] < gain["mean"] < gain["high"]
    none = found["gains"]["rar_minus_rar_untuned"]["cacc"]  # 400 images on which both agree
    assert none["mean"] == 0 and -0.01 < none["low"] < 0 < none["high"] < 0.01
    (beside,) = found["published"]
    assert (beside["figure"], beside["published"]) == ("cacc", 51.6)
    assert beside["measured"] == pytest.approx(100 * np.mean(by_method["rar"]))
    assert score_predictions(lines, "armory", None, 10)["published"] == []
