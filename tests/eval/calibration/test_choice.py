"""The choice of source, candidates and method follows accuracy on validation images."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.settings.loading import load_recipe
from eval.calibration.choice import Choice, Trial, apply_settings, candidate_counts, choose, choose_source
from eval.calibration.fusion import to_rankings

GATE = ("margin", 0.0)


def make_trial(k: int, ranker: float, retriever: float, n: int = 400, orders: int = 1) -> Trial:
    """Makes a trial whose truth is candidate 0, with the given strengths of ranker and retriever."""
    rng = np.random.default_rng(k)
    logits, similarities = rng.normal(0, 1, (n, k)), rng.normal(0, 0.1, (n, k, 2))
    logits[:, 0] += ranker
    similarities[:, 0] += retriever
    # A candidate's position says nothing.
    orders_shown = rng.permuted(np.tile(np.arange(k), (n, 1)), axis=1)
    rows = np.arange(n)[:, None]
    truths = orders_shown.argsort(1)[:, 0].tolist()
    return Trial(k, orders, to_rankings(logits[rows, orders_shown]), similarities[rows, orders_shown], truths)


@given(st.integers(1, 300))
def test_the_numbers_of_candidates_rise_to_the_largest(k_max):
    counts = candidate_counts(k_max)
    assert counts[-1] == k_max and counts == sorted(set(counts)) and counts[0] >= 1


def test_the_source_with_the_higher_recall_over_all_numbers_of_candidates_is_chosen():
    ranks = {"fused": np.array([0, 1, 9, 9]), "image": np.array([0, 0, 1, 9]), "name": np.array([5, 5, 5, 5])}
    source, rows = choose_source(ranks, 5)
    assert source == "image"
    assert [row["source"] for row in rows] == ["fused", "image", "name"]
    assert rows[1] == {"source": "image", "k": 5, "recall": 0.75, "retriever": 0.5}
    assert choose_source({"fused": ranks["image"], "image": ranks["image"]}, 5)[0] == "fused"  # ties: the first


def test_the_trial_with_the_best_top1_wins_and_of_equal_ones_the_smaller():
    weak, strong = make_trial(5, 0.5, 0.0), make_trial(10, 4.0, 0.0)
    choice = choose("fused", [strong, weak], 400, True, GATE, [])
    assert (choice.k, choice.source) == (10, "fused")
    assert [point["k"] for point in choice.curve] == [5, 10]
    sure = [make_trial(k, 30.0, 0.0) for k in (5, 10)]
    assert choose("fused", sure, 400, True, GATE, []).k == 5
    assert "400 validation images" in choice.reason


def test_two_orders_are_used_only_where_they_are_better():
    once, twice = make_trial(5, 1.0, 0.0), make_trial(5, 3.0, 0.0, orders=2)
    assert choose("name", [once, twice], 400, False, GATE, []).permutations == 2
    same = Trial(5, 2, once.rankings, once.similarities, once.truths)
    choice = choose("name", [once, same], 400, False, GATE, [])
    assert choice.permutations == 1 and choice.method == "rar" and choice.fusion is None


def test_the_method_with_the_best_top1_is_used(monkeypatch):
    assert choose("image", [make_trial(5, 2.0, 0.1)], 400, True, GATE, []).method == "rar_fused"
    trial = make_trial(5, 0.5, 0.0)
    for best, scores in (("retriever", (0.6, 0.7, 0.8)), ("rar", (0.6, 0.8, 0.7)), ("rar_fused", (0.8, 0.8, 0.8))):
        point = dict(zip(("rar_fused", "rar", "retriever"), scores, strict=True)) | {"k": 5, "permutations": 1}
        monkeypatch.setattr("eval.calibration.choice._score", lambda *_, point=point: point)
        choice = choose("image", [trial], 400, True, GATE, [])
        assert choice.method == best and f"top-1 {100 * max(scores):.1f} %" in choice.reason


def test_a_choice_survives_its_file_and_settings_take_precedence():
    choice = choose("image", [make_trial(5, 2.0, 0.1)], 400, True, GATE, [{"source": "image", "recall": 1.0}])
    assert Choice.from_dict(asdict(choice)) == choice
    recipe = load_recipe(["recipe=ranker_lora", "eval.candidates=auto"])
    assert apply_settings(recipe, choice, "fused") == choice
    explicit = load_recipe(["recipe=ranker_lora", "eval.k=3", "eval.candidates=name", "eval.fusion=false"])
    changed = apply_settings(explicit, choice, "fused")
    assert (changed.k, changed.source, changed.fusion, changed.method) == (3, "name", None, "rar")
    assert apply_settings(recipe, None, "fused").k == 5
    assert apply_settings(explicit, None, "name").source == "name"


@pytest.mark.parametrize("k", ["0", "-1", "none", "2.5"])
def test_a_wrong_number_of_candidates_is_refused(k):
    with pytest.raises(Exception, match=r"eval\.k"):
        load_recipe(["recipe=ranker_lora", f"eval.k={k}"])
