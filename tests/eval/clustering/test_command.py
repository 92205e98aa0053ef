"""Metrics of guessed names against reference implementations, on random and adversarial labels."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from data_prep.core.errors import UserError
from eval.clustering.__main__ import read_names, read_truths
from eval.clustering.scores import score_names, semantic_accuracy, summarise_runs

NAMES = "abcde"


def protocol_accuracy(predicted: list[str], true: list[str]) -> float:
    """Computes cACC as FineR does: ``w[pred, true]`` over D = max + 1 ids, Hungarian algorithm on ``w.max() - w``."""
    guesses = [sorted(set(predicted)).index(name) for name in predicted]
    truths = [sorted(set(true)).index(name) for name in true]
    size = max(guesses + truths) + 1
    w = np.zeros((size, size), int)
    for guess, truth in zip(guesses, truths, strict=True):
        w[guess, truth] += 1
    return sum(w[i, j] for i, j in zip(*linear_sum_assignment(w.max() - w), strict=True)) / len(true)


def best_matching(predicted: list[str], true: list[str]) -> float:
    """Computes cACC by trying every one-to-one matching."""
    guesses, truths = sorted(set(predicted)), sorted(set(true))
    counts = Counter(zip(predicted, true, strict=True))
    few, many, swapped = (guesses, truths, False) if len(guesses) <= len(truths) else (truths, guesses, True)
    return max(
        sum(counts[(b, a) if swapped else (a, b)] for a, b in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    ) / len(true)


def entropy(counts: list[int]) -> float:
    total = sum(counts)
    return -sum(c / total * math.log(c / total) for c in counts if c)


def reference_nmi(predicted: list[str], true: list[str]) -> float:
    """Computes mutual information over the arithmetic mean of the entropies; 1 where both have one name."""
    guessed, truths = entropy(list(Counter(predicted).values())), entropy(list(Counter(true).values()))
    both = entropy(list(Counter(zip(predicted, true, strict=True)).values()))
    return (guessed + truths - both) / ((guessed + truths) / 2) if guessed + truths else 1.0


def reference_ari(predicted: list[str], true: list[str]) -> float:
    """Counts pairs of images, adjusted for chance; 1 where no pair can disagree."""

    def pairs(counts) -> int:
        return sum(math.comb(count, 2) for count in counts)

    both = pairs(Counter(zip(predicted, true, strict=True)).values())
    guessed, truths = pairs(Counter(predicted).values()), pairs(Counter(true).values())
    every = math.comb(len(true), 2)
    expected = guessed * truths / every if every else 0
    highest = (guessed + truths) / 2
    return (both - expected) / (highest - expected) if highest != expected else 1.0


labels = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=30)


def compare(predicted: list[str], true: list[str]) -> None:
    metrics = score_names(predicted, true)
    assert metrics["cacc"] == pytest.approx(protocol_accuracy(predicted, true), abs=1e-12)
    assert metrics["cacc"] == pytest.approx(best_matching(predicted, true), abs=1e-12)
    assert metrics["nmi"] == pytest.approx(reference_nmi(predicted, true), abs=1e-9)
    assert metrics["ari"] == pytest.approx(reference_ari(predicted, true), abs=1e-9)


@given(labels)
@settings(max_examples=80, deadline=None)
def test_nmi_and_ari_equal_those_of_scikit_learn(pairs):
    reference = pytest.importorskip("sklearn.metrics")
    predicted, true = (list(side) for side in zip(*pairs, strict=True))
    metrics = score_names(predicted, true)
    assert metrics["nmi"] == pytest.approx(reference.normalized_mutual_info_score(true, predicted), abs=1e-12)
    assert metrics["ari"] == pytest.approx(reference.adjusted_rand_score(true, predicted), abs=1e-12)


@given(labels)
@settings(max_examples=80, deadline=None)
def test_metrics_equal_the_references_on_random_labels(pairs):
    predicted, true = (list(side) for side in zip(*pairs, strict=True))
    compare(predicted, true)


@pytest.mark.parametrize(
    ("predicted", "true", "cacc"),
    [
        ("aaaa", "abcd", 0.25),  # one guess for all images
        ("abcd", "aaaa", 0.25),  # a different guess for each image
        ("aaaa", "bbbb", 1.0),  # one name each
        ("bcda", "abcd", 1.0),  # every name wrong, every cluster right
        ("aabbb", "aabab", 0.8),
        ("aaab", "abbb", 0.5),  # the largest count excludes both others
        ("aaabbbb", "xxxyxxx", 0.5714285714285714),  # of two equal counts only one leaves a third one free
        ("a", "b", 1.0),
    ],
)
def test_metrics_on_adversarial_labels(predicted, true, cacc):
    assert score_names(list(predicted), list(true))["cacc"] == pytest.approx(cacc)
    compare(list(predicted), list(true))


def test_names_of_any_length_are_distinguished():
    long = "x" * 300
    assert score_names([long + "a", long + "b"], ["a", "a"])["cacc"] == 0.5


def toy_embedding(names):
    """Returns orthogonal vectors, except for a colour that two names share."""
    vectors = {"red fox": (0.6, 0.8, 0), "red kite": (0.6, 0, 0.8), "fox": (0, 1, 0)}
    return np.array([vectors[name] for name in names], np.float32)


def test_semantic_accuracy_is_the_mean_cosine_over_images():
    predicted, true = ["red fox", "fox", "fox"], ["red kite", "red fox", "fox"]
    assert semantic_accuracy(predicted, true, toy_embedding) == pytest.approx((0.36 + 0.8 + 1) / 3)
    metrics = score_names(predicted, true, toy_embedding)
    assert metrics["sacc"] == pytest.approx(0.72)
    assert (metrics["images"], metrics["guessed_names"], metrics["true_names"]) == (3, 2, 3)


def test_runs_are_summarised_by_mean_and_standard_deviation():
    summary = summarise_runs([{"cacc": 0.4, "nmi": 0.5, "ari": 0.1}, {"cacc": 0.6, "nmi": 0.5, "ari": 0.3}])
    assert summary["cacc"] == pytest.approx({"mean": 0.5, "sd": math.sqrt(0.02)})
    assert summary["nmi"] == {"mean": 0.5, "sd": 0.0}
    assert "sacc" not in summary


@pytest.fixture
def write(tmp_path):
    def write_rows(name, rows):
        path = tmp_path / name
        if name.endswith(".csv"):
            path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write_rows


@pytest.mark.parametrize("name", ["names.csv", "names.jsonl"])
def test_true_names_come_from_the_name_file_or_are_looked_up_by_path(write, name):
    rows = [
        {"path": "1.png", "predicted": "fox", "true": "red fox"},
        {"path": "2.png", "predicted": "owl", "true": "x"},
    ]
    assert read_names(write(name, rows)) == (["fox", "owl"], ["red fox", "x"])
    truths = read_truths(write(f"truths-{name}", [{"path": f"{n}.png", "label": f"class {n}"} for n in (1, 2)]))
    assert read_names(write(name, rows), truths) == (["fox", "owl"], ["class 1", "class 2"])


def test_errors_name_the_file_the_line_and_the_problem(write, tmp_path):
    def error_of(rows, truths=None):
        with pytest.raises(UserError) as caught:
            read_names(write("names.jsonl", rows), truths)
        return str(caught.value)

    valid = {"path": "1.png", "predicted": "fox", "true": "red fox"}
    assert "names.jsonl: contains no names" in error_of([])
    assert "names.jsonl, line 1: not a record" in error_of([["fox"]])
    assert "line 2: no guess; it needs the column predicted" in error_of([valid, {"true": "fox"}])
    assert "line 2: no true name" in error_of([valid, {"predicted": "fox"}])
    assert "line 2: 1.png has a guess already" in error_of([valid, valid])
    assert "line 1: no true name" in error_of([valid], {"2.png": "x"})
    assert "1 of 2 images have no guess, such as 2.png" in error_of([valid], {"1.png": "a", "2.png": "b"})
    with pytest.raises(UserError, match=r"gone\.csv: should be a \.csv or \.jsonl file"):
        read_names(tmp_path / "gone.csv")
    with pytest.raises(UserError, match="line 1: needs path and label"):
        read_truths(write("truths.jsonl", [{"path": "1.png"}]))
