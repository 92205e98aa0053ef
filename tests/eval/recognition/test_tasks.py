"""What the retriever proposes for each memory, and the rows that figures stand in."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.rng import evenly_spaced
from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import load_encoder
from eval.recognition.tasks import make_tasks


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_a_spread_is_ascending_distinct_and_as_many_as_asked(count, most):
    chosen = evenly_spaced(count, most)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, most)
    assert all(0 <= number < count for number in chosen)
    if len(chosen) > 1:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        gaps = [b - a for a, b in pairwise(chosen)]
        assert max(gaps) - min(gaps) <= 1


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A recipe, its data set and its settings."""
    recipe = tiny(tmp_path_factory.mktemp("out"))
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
    return recipe, dataset, make_tasks(recipe, load_encoder(recipe.retriever), dataset)


def test_there_is_a_setting_for_zero_shot_and_for_each_shots_and_seed(made):
    _, _, found = made
    names = [(one.task, one.shots, one.seed) for one in found]
    few = [("few_shot", shots, seed) for shots in (1, 2) for seed in (1, 2)]
    assert names == [("zero_shot", 0, 0), *few]
    assert set(found[0].retrieved) == {"clip_zero_shot"}
    assert set(found[1].retrieved) == {"clip_zero_shot", "clip_knn", "clip_fused"}


def test_candidates_are_the_first_k_distinct_classes_of_their_source(made):
    recipe, dataset, found = made
    for setting in found:
        source = "clip_fused" if setting.task == "few_shot" else "clip_zero_shot"
        assert len(setting.candidates) == len(dataset.parts["test"])
        for candidates, labels in zip(setting.candidates, setting.retrieved[source], strict=True):
            own = [candidate.label for candidate in candidates]
            assert len(set(own)) == recipe.eval.k and own == labels[: recipe.eval.k]
            assert len(labels) == 5  # enough for top-5 although k is 4
            assert [candidate.name for candidate in candidates] == [dataset.names[label] for label in own]
            scores = [candidate.score for candidate in candidates]
            assert scores == sorted(scores, reverse=True)


def test_another_seed_draws_another_memory_and_names_stay_the_same(made):
    _, _, (zero, one, other, *_) = made
    assert one.candidates != other.candidates
    assert one.retrieved["clip_zero_shot"] == other.retrieved["clip_zero_shot"] == zero.retrieved["clip_zero_shot"]


def test_candidates_may_come_from_names_or_fused(tiny, made, tmp_path):
    _, dataset, _ = made
    for source, method in (("name", "clip_zero_shot"), ("fused", "clip_fused")):
        recipe = tiny(tmp_path, f"eval.candidates={source}", "eval.zero_shot=false", "eval.shots=[1]", "eval.seeds=[1]")
        (setting,) = make_tasks(recipe, load_encoder(recipe.retriever), dataset)
        own = [[candidate.label for candidate in row] for row in setting.candidates]
        assert own == [labels[: recipe.eval.k] for labels in setting.retrieved[method]]


def test_the_whole_training_set_is_a_memory_without_a_draw(tiny, made, tmp_path):
    _, dataset, _ = made
    recipe = tiny(tmp_path, "eval.full_train_memory=true", "eval.zero_shot=false", "eval.shots=[4]", "eval.seeds=[1]")
    four, whole = make_tasks(recipe, load_encoder(recipe.retriever), dataset)
    assert (whole.task, whole.shots, whole.seed) == ("whole_set", 0, 0)
    assert set(whole.retrieved) == {"clip_zero_shot", "clip_knn", "clip_fused"}
    # There are four images a class: four shots are the whole set, by another draw.
    assert whole.retrieved == four.retrieved
