"""The steps of vocabulary discovery: the prompt, the vote, and the names that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.records import Sample, SpecialLabel
from data_prep.datasets import Dataset
from data_prep.embedding.encoder import Encoder, embed_images, load_encoder
from data_prep.memory.memories import with_templates
from data_prep.prompting.prompts import NAMING
from data_prep.reading.dataset import hash_images, sample_key
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe
from eval.discover.vocabulary import (
    Vocabulary,
    choose_names,
    naming_prompt,
    retrieve_by_vocabulary,
    vocabulary_from_file,
)

BLAZONS = draw_classes("test", 4, 1, 3)
NAMES = tuple(sorted(blazon.name for blazon in BLAZONS))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """The embedded encoder."""
    return load_encoder(load_recipe(["recipe=ranker_lora"]).retriever)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """Three images each of four shields, whose labels must not be used."""
    folder, paths = tmp_path_factory.mktemp("shields"), []
    for label, blazon in enumerate(BLAZONS):
        for index in range(3):
            paths.append(folder / f"{label}-{index}.png")
            render(blazon, 96, np.random.default_rng([label, index])).save(paths[-1])
    hashes = hash_images(paths, folder / "cache", "raise")
    return [Sample(sample_key(p.name), str(p), SpecialLabel.UNLABELLED, d) for p, d in zip(paths, hashes, strict=True)]


@pytest.fixture
def make_recipe(tmp_path_factory):
    """A factory of recipes with changes; all share a cache."""

    def make(*changes: str) -> Recipe:
        cache = tmp_path_factory.getbasetemp() / "discovery-cache"
        return load_recipe(["recipe=ranker_lora", f"cache={cache}", "out=run", *changes])

    return make


def test_the_prompt_depends_on_the_data_set_the_subject_and_the_users_prompt(make_recipe):
    assert "What dog breed does the picture show?" in naming_prompt(make_recipe("data.name=dogs120"))
    assert "What object does the picture show?" in naming_prompt(make_recipe())
    assert naming_prompt(make_recipe("discover.names_per_image=1")) == NAMING
    assert "What shield does" in naming_prompt(make_recipe("discover.subject=shield", "data.name=dogs120"))
    assert naming_prompt(make_recipe("discover.prompt=Name it.")) == "Name it."


def choose(recipe: Recipe, encoder: Encoder, samples: list[Sample], guessed: dict[str, int]) -> Vocabulary:
    args = with_templates(recipe.retriever, Dataset("armory", (), {}))
    (vocabulary,) = choose_names(recipe, encoder, args, {1: samples}, {1: guessed}, Path("none"), Path("none"))
    return vocabulary


def test_with_the_retriever_each_image_votes_for_the_nearest_guess_and_is_labelled_by_it(make_recipe, encoder, samples):
    unrelated = [blazon.name for blazon in draw_classes("val", 6, 1, 9)]
    recipe = make_recipe("discover.vote_by=retriever")
    vocabulary = choose(recipe, encoder, samples, dict.fromkeys([*NAMES, *unrelated], 1))
    assert sum(vocabulary.votes.values()) == len(vocabulary.images) == 12
    # Most images are nearest to their true name, so most unrelated names have no votes and are dropped.
    true_names = [BLAZONS[int(Path(s.path).stem.split("-")[0])].name for s in vocabulary.images]
    right = [s for s, name in zip(vocabulary.images, true_names, strict=True) if vocabulary.names[s.label] == name]
    assert len(right) >= 8 and len(vocabulary.names) <= 7
    frequent = choose(
        make_recipe("discover.vote_by=retriever", "discover.min_votes=3"), encoder, samples, vocabulary.guessed
    )
    assert set(frequent.names) < set(vocabulary.names) or frequent.names == vocabulary.names
    assert all(votes >= 3 for votes in frequent.votes.values())
    assert frequent.metadata["images_without_name"] == 12 - len(frequent.images)


def test_every_guess_is_kept_without_a_vote(make_recipe, encoder, samples):
    vocabulary = choose(make_recipe("discover.vote_by=none"), encoder, samples, dict.fromkeys(NAMES, 2))
    assert (vocabulary.names, set(vocabulary.votes.values()), vocabulary.images) == (NAMES, {0}, [])


def test_an_image_never_retrieves_itself_from_the_memory(make_recipe, encoder, samples):
    recipe = make_recipe("discover.memory=image", "eval.k=4")
    args = with_templates(recipe.retriever, Dataset("armory", (), {}))
    labelled = [Sample(s.key, s.path, index // 3, s.digest) for index, s in enumerate(samples)]
    votes = {blazon.name: 3 for blazon in BLAZONS}
    vocabulary = Vocabulary(1, votes, votes, labelled, {})
    xq = embed_images(encoder, samples, args, Path(recipe.cache))
    candidates = retrieve_by_vocabulary(recipe, encoder, args, vocabulary, samples, xq)
    assert max(candidate.score for row in candidates for candidate in row) < 0.9999
    assert all(len(row) == 4 for row in candidates)
    names = vocabulary_from_file(dict.fromkeys(NAMES, 1))
    by_name = retrieve_by_vocabulary(make_recipe(), encoder, args, names, samples, xq)
    assert {candidate.name for row in by_name for candidate in row} == set(NAMES)
