"""Recognition with two encoders: images are compared by one, names by the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.errors import UserError
from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import load_encoder
from data_prep.mining.pipeline import build
from data_prep.mining.shards import ShardedExamples
from eval.recognition.choosing import make_fixed_choices
from eval.recognition.multiple_choice import make_choice_task
from eval.recognition.tasks import find_exemplars, make_tasks
from eval.recognizer.class_memory import ClassMemory
from eval.recognizer.new_images import query_uncached
from tests.tiny_encoders import write_open_clip, write_timm


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_timm(folder / "timm")
    return {"timm": f"timm:{folder / 'timm'}", "siglip2": write_open_clip("siglip2", folder / "siglip2")}


@pytest.fixture
def recipe(tiny, models, tmp_path):
    return tiny(tmp_path / "run", f"retriever.model={models['timm']}", "retriever.name_model=nano-clip")


def tasks_of(recipe, **settings):
    recipe = replace(recipe, retriever=replace(recipe.retriever, **settings))
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
    return make_tasks(recipe, load_encoder(recipe.retriever), dataset, make_fixed_choices(recipe.eval))


def test_names_are_retrieved_as_by_one_encoder_and_images_as_by_the_other(recipe):
    by_pair = tasks_of(recipe)
    by_names = tasks_of(recipe, model="nano-clip", name_model=None)
    for pair, names in zip(by_pair, by_names, strict=True):
        assert pair.retrieved["clip_zero_shot"] == names.retrieved["clip_zero_shot"]
        assert pair.similarities.shape == names.similarities.shape
    few, few_by_names = by_pair[1], by_names[1]
    assert few.retrieved["clip_knn"] != few_by_names.retrieved["clip_knn"]
    both = {(c.label, i): few.similarities[i, n, 1] for i, row in enumerate(few.candidates) for n, c in enumerate(row)}
    for i, row in enumerate(few_by_names.candidates):
        for n, candidate in enumerate(row):
            if (candidate.label, i) in both:
                expected = pytest.approx(few_by_names.similarities[i, n, 1], abs=1e-5)
                assert both[candidate.label, i] == expected, "the similarity to a name is the second encoder's"


def test_multiple_choice_has_the_candidates_of_the_encoder_of_names(recipe):
    alone = replace(recipe, retriever=replace(recipe.retriever, model="nano-clip", name_model=None))
    tasks = []
    for of_encoder in (recipe, alone):
        of_encoder = replace(of_encoder, eval=replace(of_encoder.eval, choices=4))
        dataset = read_dataset(of_encoder.data, Path(of_encoder.cache), ("test_memory", "test"))
        tasks.append(make_choice_task(of_encoder, load_encoder(of_encoder.retriever), dataset))
    pair, names = tasks
    assert [[c.label for c in row] for row in pair.candidates] == [[c.label for c in row] for row in names.candidates]
    assert pair.retrieved == names.retrieved


def test_an_encoder_of_another_library_is_evaluated_like_any_other(recipe, models):
    zero_shot, few_shot, *_ = tasks_of(recipe, model=models["siglip2"], name_model=None)
    assert set(zero_shot.retrieved) == {"clip_zero_shot"}
    assert set(few_shot.retrieved) == {"clip_zero_shot", "clip_knn", "clip_fused"}
    assert not np.isnan(few_shot.similarities).any()


def test_examples_are_mined_with_each_side_of_a_pair(recipe):
    recipe = replace(recipe, mining=replace(recipe.mining, sources=["image", "name"]))
    train, _ = build(recipe)
    by_names = replace(recipe, retriever=replace(recipe.retriever, model="nano-clip", name_model=None))
    alone, _ = build(by_names)
    pair, single = (
        {e.key: [c.label for c in e.candidates] for e in ShardedExamples(folder).examples()}
        for folder in (train, alone)
    )
    named = [key for key in pair if key.endswith("-name")]
    assert named and all(pair[key] == single[key] for key in named if key in single)


def test_a_class_memory_of_a_pair_is_searched_extended_saved_and_opened(recipe, tmp_path):
    classes = draw_classes("test", 4, 3, 0)
    files = {}
    for label, blazon in enumerate(classes):
        files[blazon.name] = tmp_path / f"{label}.png"
        render(blazon, 96, np.random.default_rng(label)).save(files[blazon.name])
    encoder, names = load_encoder(recipe.retriever), list(files)
    memory = ClassMemory(encoder, recipe, {name: [files[name]] for name in names[:3]})
    assert memory.add(names[3], [files[names[3]]]) == 1
    found = memory.search(list(files.values()), k=1, source="image")
    assert [candidate.name for (candidate,) in found] == names
    xq = query_uncached(encoder, list(files.values()), recipe)
    candidates, similarities = memory.candidates(xq, 4, "fused")
    assert similarities.shape == (4, 4, 2) and not np.isnan(similarities).any()
    assert find_exemplars(memory.memories.images, {}, xq.images, candidates) == [()] * 4
    memory.save(tmp_path / "memory")
    opened = ClassMemory(encoder, recipe, tmp_path / "memory")
    assert opened.search(list(files.values()), k=1, source="image") == found
    swapped = load_encoder(replace(recipe.retriever, model="nano-clip"))
    with pytest.raises(UserError, match="this memory was made with encoder"):
        ClassMemory(swapped, recipe, tmp_path / "memory")


def test_a_pairs_memory_of_names_alone_takes_images_later(recipe, tmp_path):
    classes = draw_classes("test", 3, 3, 0)
    render(classes[0], 96, np.random.default_rng(0)).save(tmp_path / "0.png")
    encoder = load_encoder(recipe.retriever)
    memory = ClassMemory(encoder, recipe, [blazon.name for blazon in classes])
    assert len(memory.search([tmp_path / "0.png"], k=3)[0]) == 3
    memory.save(tmp_path / "memory")
    opened = ClassMemory(encoder, recipe, tmp_path / "memory")
    assert opened.add(classes[0].name, [tmp_path / "0.png"]) == 1
    opened.save_changes()
    again = ClassMemory(encoder, recipe, tmp_path / "memory")
    assert again.memories.images.dimension == 32 != again.memories.names.dimension
    assert again.add(classes[1].name, vectors=np.ones(32)) == 1
