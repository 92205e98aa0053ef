"""Multiple choice: the true class and the classes whose names are nearest, apart from the rows of retrieval."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import embed_images, embed_names, load_encoder
from data_prep.memory.memories import with_templates
from eval.recognition.multiple_choice import make_choice_task, put_truths
from eval.report.predictions import read_predictions
from eval.run import main


@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 20))
def test_the_true_class_takes_the_place_of_the_least_similar_one_where_it_is_missing(seed, k, images):
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.permutation(8)[:k] for _ in range(images)])
    truths = rng.integers(0, 8, images)
    choices = put_truths(labels, truths)
    for before, after, truth in zip(labels, choices, truths, strict=True):
        assert truth in after and len(set(after)) == k
        assert (after == before).all() if truth in before else (after[:-1] == before[:-1]).all()


@pytest.fixture(scope="module")
def task(tiny, tmp_path_factory):
    recipe = tiny(tmp_path_factory.mktemp("out"), "eval.choices=4")
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
    encoder = load_encoder(recipe.retriever)
    return recipe, dataset, encoder, make_choice_task(recipe, encoder, dataset)


def test_candidates_are_the_true_class_and_the_nearest_wrong_names(task):
    """Written from the paper: cosines of image and name; the truth, and the three highest of the others."""
    recipe, dataset, encoder, made = task
    cache, samples = Path(recipe.cache), dataset.parts["test"]
    xq = embed_images(encoder, samples, recipe.retriever, cache)
    names = [dataset.names[label] for label in dataset.labels("test_memory")]
    cosines = xq @ embed_names(encoder, names, with_templates(recipe.retriever, dataset), cache).T
    for sample, row, candidates in zip(samples, cosines, made.candidates, strict=True):
        truth = dataset.names[sample.label]
        wrong = [names[i] for i in np.argsort(-row, kind="stable") if names[i] != truth][:3]
        assert {candidate.name for candidate in candidates} == {truth, *wrong}
    nearest = [max(candidates, key=lambda c: c.score).label for candidates in made.candidates]
    assert [row[0] for row in made.retrieved["clip_zero_shot"]] == nearest
    assert all(set(row) == {c.label for c in cs} for row, cs in zip(made.retrieved["clip_zero_shot"], made.candidates))


def test_the_order_of_the_candidates_says_nothing_of_the_true_class(task):
    recipe, dataset, encoder, made = task
    places = [
        [candidate.label for candidate in candidates].index(sample.label)
        for candidates, sample in zip(made.candidates, dataset.parts["test"], strict=True)
    ]
    assert set(places) == {0, 1, 2, 3}
    assert make_choice_task(recipe, encoder, dataset).candidates == made.candidates


def test_more_choices_than_classes_are_refused(tiny, tmp_path, task):
    recipe = tiny(tmp_path, "eval.choices=9")
    with pytest.raises(UserError, match=r"eval\.choices=9: armory has 8 classes"):
        make_choice_task(recipe, task[2], task[1])
    with pytest.raises(UserError, match=r"eval\.choices=1: must be 0 for none, or 2 to 26"):
        tiny(tmp_path, "eval.choices=1")


@pytest.mark.parametrize("mode", ["likelihood", "letters", "constrained"])
def test_an_evaluation_has_rows_of_its_own(finished, tmp_path, mode, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    main(["--ckpt", str(run), "--mode", mode, "eval.choices=4", "eval.shots=[]", "--name", "choice"])
    folder = run / "eval" / "choice"
    results = read_json(folder / "results.json")
    rows = {row["method"]: row for row in results["rows"] if row["task"] == "choice"}
    assert set(rows) == {"clip_zero_shot", "rar_untuned", "rar"}
    for row in rows.values():
        assert row["k"] == 4 and row["recall_at_k"] == 1.0 and row["shots"] == 0
    lines = [line for line in read_predictions(folder) if line["task"] == "choice"]
    assert {len(line["ranking"]) for line in lines} == {4}
    nearest = [line for line in lines if line["method"] == "clip_zero_shot"]
    tuned = [line for line in lines if line["method"] == "rar"]
    first = [line["ranking"][0] == line["truth"] for line in nearest]
    ranked = [line["ranking"][0] == line["truth"] for line in tuned]
    assert rows["rar"]["corrected"] == sum(b and not a for a, b in zip(first, ranked, strict=True))
    assert rows["rar"]["broken"] == sum(a and not b for a, b in zip(first, ranked, strict=True))
    assert results["choices"] == 4 and "4-way choice" in capsys.readouterr().out
    zero_shot = [row["k"] for row in results["rows"] if row["task"] == "zero_shot" and row["method"] == "rar"]
    assert zero_shot == [4]
    before = (folder / "results.json").read_bytes()
    main(["--rescore", str(folder)])
    assert (folder / "results.json").read_bytes() == before
