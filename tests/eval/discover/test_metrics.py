"""Metrics over runs equal those of ``eval.clustering``; intervals contain the metric."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.clustering.scores import score_names
from eval.discover.metrics import GuessedNames, resample_metrics, score_predictions
from eval.metrics.intervals import SHARE, from_samples, interval

pairs = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("vwxyz")), min_size=1, max_size=30)


def embed(names):
    """Returns a unit vector per first letter, orthogonal except for a and v."""
    vectors = np.eye(26)
    vectors[ord("v") - 97] = 0.6 * vectors[0] + 0.8 * vectors[25]
    return np.stack([vectors[ord(name[0]) - 97] for name in names])


@given(pairs)
@settings(max_examples=80, deadline=None)
def test_metrics_equal_those_of_eval_clustering(pairs):
    predicted, true = (list(side) for side in zip(*pairs, strict=True))
    reference = score_names(predicted, true, embed)
    metrics = GuessedNames.from_names(predicted, true, embed).metrics()
    assert list(metrics) == ["cacc", "sacc", "nmi", "ari"]
    assert metrics == pytest.approx({key: reference[key] for key in metrics}, abs=1e-9)


@given(pairs, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_metrics_on_sampled_images_are_those_of_these_images_only(pairs, random):
    predicted, true = (list(side) for side in zip(*pairs, strict=True))
    rows = [random.randrange(len(true)) for _ in true]
    reference = score_names([predicted[row] for row in rows], [true[row] for row in rows])
    metrics = GuessedNames.from_names(predicted, true, None).metrics(np.array(rows))
    assert metrics == pytest.approx({key: reference[key] for key in metrics}, abs=1e-9)


def make_guesses(rng, share):
    """Makes guesses on images of twenty classes, of which the given share is right."""
    true = rng.integers(0, 20, 400)
    wrong = rng.random(400) > share
    return np.where(wrong, rng.integers(0, 20, 400), true).astype(str).tolist(), true.astype(str).tolist()


def test_intervals_contain_the_metric_and_have_a_plausible_width():
    rng = np.random.default_rng(0)
    run = GuessedNames.from_names(*make_guesses(rng, 0.7), None)
    samples, metrics = resample_metrics([run], 200), run.metrics()
    for key, value in metrics.items():
        _, low, high = interval([from_samples(value, samples[key], 400, SHARE)], SHARE)
        assert low < value < high and high - low < 0.2
    # NMI is higher on bootstrap samples, so much that its percentiles would not contain the metric.
    assert np.percentile(samples["nmi"], 2.5) > metrics["nmi"]
    # Twenty images that are all right leave room for one of the next to be wrong.
    same = GuessedNames.from_names(["a", "b"] * 10, ["x", "y"] * 10, None)
    mean, low, high = interval([from_samples(1.0, resample_metrics([same], 2000)["cacc"], 20, SHARE)], SHARE)
    assert (mean, high) == (1, 1) and low == pytest.approx(0.025 ** (1 / 20), abs=0.02)


def make_line(method, seed, predicted, true, **more):
    return {"method": method, "seed": seed, "predicted": predicted, "true": true} | more


def test_predictions_are_scored_by_method_over_seeds_with_paired_gains_and_the_papers_results():
    rng, lines = np.random.default_rng(1), []
    for seed in (1, 2):
        _, true = make_guesses(rng, 0)
        for method, share in (("clip_zero_shot", 0.5), ("rar_untuned", 0.8), ("rar", 0.8)):
            mistakes = np.random.default_rng(seed)  # the same for both rankers
            names = [t if mistakes.random() < share else str(mistakes.integers(20)) for t in true]
            more = {} if method == "clip_zero_shot" else {"outcome": "ok"}
            lines += [make_line(method, seed, p, t, **more) for p, t in zip(names, true, strict=True)]
    scores = score_predictions(lines, "cub200", None, 100)
    assert [(row["method"], row["seed"]) for row in scores["rows"][:3]] == [
        ("clip_zero_shot", 1),
        ("clip_zero_shot", 2),
        ("rar_untuned", 1),
    ]
    assert scores["rows"][-1]["outcomes"] == {"ok": 400} and "outcomes" not in scores["rows"][0]
    by_method = {name: [r["cacc"] for r in scores["rows"] if r["method"] == name] for name in scores["summary"]}
    for name, values in by_method.items():
        cacc = scores["summary"][name]["cacc"]
        assert cacc["mean"] == pytest.approx(np.mean(values)) and cacc["sd"] == pytest.approx(np.std(values, ddof=1))
        assert "sacc" not in scores["summary"][name]
    gain = scores["gains"]["rar_minus_clip_zero_shot"]["cacc"]
    assert gain["mean"] == pytest.approx(np.mean(by_method["rar"]) - np.mean(by_method["clip_zero_shot"]))
    assert 0 < gain["low"] < gain["mean"] < gain["high"]
    no_gain = scores["gains"]["rar_minus_rar_untuned"]["cacc"]  # both agree on all 400 images
    assert no_gain["mean"] == 0 and -0.01 < no_gain["low"] < 0 < no_gain["high"] < 0.01
    (comparison,) = scores["published"]
    assert (comparison["figure"], comparison["published"]) == ("cacc", 51.6)
    assert comparison["measured"] == pytest.approx(100 * np.mean(by_method["rar"]))
    assert score_predictions(lines, "armory", None, 10)["published"] == []
