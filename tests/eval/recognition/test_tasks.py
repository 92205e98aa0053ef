"""The tasks of an evaluation: the candidates that the retriever proposes for each memory."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.adapters import fits
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import load_encoder
from eval.recognition.choosing import make_fixed_choices
from eval.recognition.evaluation import Evaluation
from eval.recognition.tasks import make_tasks


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_evenly_spaced_indices_are_ascending_distinct_and_of_the_right_number(count, limit):
    indices = evenly_spaced(count, limit)
    assert indices == sorted(set(indices))
    assert len(indices) == min(count, limit)
    assert all(0 <= index < count for index in indices)
    if len(indices) > 1:
        assert (indices[0], indices[-1]) == (0, count - 1)
        gaps = [b - a for a, b in pairwise(indices)]
        assert max(gaps) - min(gaps) <= 1


@pytest.fixture(scope="module")
def recipe_dataset_tasks(tiny, tmp_path_factory):
    """A recipe, its data set and its tasks."""
    recipe = tiny(tmp_path_factory.mktemp("out"))
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
    return recipe, dataset, make_tasks(recipe, load_encoder(recipe.retriever), dataset, make_fixed_choices(recipe.eval))


def test_the_images_of_all_memories_are_embedded_in_one_pass(tiny, tmp_path, caplog):
    recipe = tiny(tmp_path / "out")
    recipe = replace(recipe, cache=str(tmp_path / "cache"))
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
    caplog.set_level("INFO")
    make_tasks(recipe, load_encoder(recipe.retriever), dataset, make_fixed_choices(recipe.eval))
    passes = re.findall(r"embeddings: computing (\d+) of (\d+) images", caplog.text)
    assert len(passes) == 1 and int(passes[0][0]) > len(dataset.parts["test"])


def test_there_is_a_task_for_zero_shot_and_for_each_number_of_shots_and_seed(recipe_dataset_tasks):
    _, _, tasks = recipe_dataset_tasks
    names = [(task.task, task.shots, task.seed) for task in tasks]
    few = [("few_shot", shots, seed) for shots in (1, 2) for seed in (1, 2)]
    assert names == [("zero_shot", 0, 0), *few]
    assert set(tasks[0].retrieved) == {"clip_zero_shot"}
    assert set(tasks[1].retrieved) == {"clip_zero_shot", "clip_knn", "clip_fused"}


def test_candidates_are_the_first_k_distinct_classes_of_their_source(recipe_dataset_tasks):
    recipe, dataset, tasks = recipe_dataset_tasks
    for task in tasks:
        source = "clip_fused" if task.task == "few_shot" else "clip_zero_shot"
        assert len(task.candidates) == len(dataset.parts["test"])
        for candidates, labels in zip(task.candidates, task.retrieved[source], strict=True):
            candidate_labels = [candidate.label for candidate in candidates]
            assert len(set(candidate_labels)) == recipe.eval.k and candidate_labels == labels[: recipe.eval.k]
            assert len(labels) == 5  # enough for top-5 although k is 4
            assert [candidate.name for candidate in candidates] == [dataset.names[label] for label in candidate_labels]
            scores = [candidate.score for candidate in candidates]
            assert scores == sorted(scores, reverse=True)


def test_another_seed_samples_another_memory_and_names_stay_the_same(recipe_dataset_tasks):
    _, _, (zero_shot, seed_1, seed_2, *_) = recipe_dataset_tasks
    assert seed_1.candidates != seed_2.candidates
    assert (
        seed_1.retrieved["clip_zero_shot"]
        == seed_2.retrieved["clip_zero_shot"]
        == zero_shot.retrieved["clip_zero_shot"]
    )


def test_candidates_may_come_from_names_or_fused(tiny, recipe_dataset_tasks, tmp_path):
    _, dataset, _ = recipe_dataset_tasks
    for source, method in (("name", "clip_zero_shot"), ("fused", "clip_fused")):
        recipe = tiny(tmp_path, f"eval.candidates={source}", "eval.zero_shot=false", "eval.shots=[1]", "eval.seeds=[1]")
        (task,) = make_tasks(recipe, load_encoder(recipe.retriever), dataset, make_fixed_choices(recipe.eval))
        candidate_labels = [[candidate.label for candidate in row] for row in task.candidates]
        assert candidate_labels == [labels[: recipe.eval.k] for labels in task.retrieved[method]]


def test_the_full_training_set_is_a_memory_without_sampling(tiny, recipe_dataset_tasks, tmp_path):
    _, dataset, _ = recipe_dataset_tasks
    recipe = tiny(tmp_path, "eval.full_train_memory=true", "eval.zero_shot=false", "eval.shots=[4]", "eval.seeds=[1]")
    four_shots, full = make_tasks(recipe, load_encoder(recipe.retriever), dataset, make_fixed_choices(recipe.eval))
    assert (full.task, full.shots, full.seed) == ("whole_set", 0, 0)
    assert set(full.retrieved) == {"clip_zero_shot", "clip_knn", "clip_fused"}
    # There are four images per class, so four shots are the full set, sampled another way.
    assert full.retrieved == four_shots.retrieved


@pytest.mark.parametrize("mode", ["letters", "likelihood", "yes_no"])
def test_an_evaluations_prompts_show_the_classes_descriptions_where_asked_for(mode, tiny, tmp_path):
    settings = ("data.descriptions=own", "ranker.descriptions=true", f"ranker.mode={mode}", "eval.shots=[]")
    recipe = tiny(tmp_path, *settings)
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
    tasks = make_tasks(recipe, load_encoder(recipe.retriever), dataset, make_fixed_choices(recipe.eval))
    (requests,) = Evaluation(recipe, dataset, tasks, tmp_path).requests
    texts = dataset.first_descriptions
    for (request, *_), candidates in zip(requests, tasks[0].candidates, strict=True):
        assert set(request.names) == {candidate.name for candidate in candidates}
        assert request.descriptions == (() if mode == "likelihood" else tuple(texts[name] for name in request.names))


def test_an_adapter_that_does_not_fit_the_evaluated_memory_has_no_row(
    tiny, recipe_dataset_tasks, tmp_path, monkeypatch
):
    _, dataset, _ = recipe_dataset_tasks
    recipe = tiny(tmp_path, "eval.zero_shot=false", "eval.shots=[1]", "eval.seeds=[1]")
    choices = {
        kind: replace(choice, adapters={"tip": {"alpha": 1.0, "beta": 5.5}, "linear_probe": {"strength": 1.0}})
        for kind, choice in make_fixed_choices(recipe.eval).items()
    }
    monkeypatch.setattr(fits, "_MOST_WORK", {"cpu": 1, "cuda": 1})
    (task,) = make_tasks(recipe, load_encoder(recipe.retriever), dataset, choices)
    assert set(task.retrieved) == {"clip_zero_shot", "clip_knn", "clip_fused", "tip"}
