"""The steps of a discovery: what is asked, who chooses, what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.datasets.unlabelled import UNLABELLED
from data_prep.embedding.encoder import Encoder, embed_images, load_encoder
from data_prep.memory.memories import with_templates
from data_prep.prompting.prompts import NAMING
from data_prep.reading.dataset import digests, sample_key
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe
from eval.discover.vocabulary import Vocabulary, choose_names, given_vocabulary, naming_prompt, retrieve_by_vocabulary

BLAZONS = draw_classes("test", 4, 1, 3)
NAMES = tuple(sorted(blazon.name for blazon in BLAZONS))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """The embedded one."""
    return load_encoder(load_recipe(["recipe=ranker_lora"]).retriever)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """Three pictures each of four shields, whose labels nothing may look at."""
    folder, paths = tmp_path_factory.mktemp("shields"), []
    for label, blazon in enumerate(BLAZONS):
        for number in range(3):
            paths.append(folder / f"{label}-{number}.png")
            render(blazon, 96, np.random.default_rng([label, number])).save(paths[-1])
    found = digests(paths, folder / "cache", "raise")
    return [Sample(sample_key(p.name), str(p), UNLABELLED, d) for p, d in zip(paths, found, strict=True)]


@pytest.fixture
def recipe_of(tmp_path_factory):
    """A recipe with changes; all share a cache."""

    def make(*changes: str) -> Recipe:
        cache = tmp_path_factory.getbasetemp() / "discovery-cache"
        return load_recipe(["recipe=ranker_lora", f"cache={cache}", "out=run", *changes])

    return make


def test_a_benchmark_a_subject_and_a_users_prompt_decide_what_is_asked(recipe_of):
    assert "What dog breed does the picture show?" in naming_prompt(recipe_of("data.name=dogs120"))
    assert "What object does the picture show?" in naming_prompt(recipe_of())
    assert naming_prompt(recipe_of("discover.names_per_image=1")) == NAMING
    assert "What shield does" in naming_prompt(recipe_of("discover.subject=shield", "data.name=dogs120"))
    assert naming_prompt(recipe_of("discover.prompt=Name it.")) == "Name it."


def chosen(recipe: Recipe, encoder: Encoder, samples: list[Sample], guessed: dict[str, int]) -> Vocabulary:
    args = with_templates(recipe.retriever, Dataset("armory", (), {}))
    (found,) = choose_names(recipe, encoder, args, {1: samples}, {1: guessed}, Path("none"), Path("none"))
    return found


def test_the_retriever_chooses_the_nearest_guess_and_images_are_labelled_by_it(recipe_of, encoder, samples):
    strangers = [blazon.name for blazon in draw_classes("val", 6, 1, 9)]
    recipe = recipe_of("discover.vote_by=retriever")
    found = chosen(recipe, encoder, samples, dict.fromkeys([*NAMES, *strangers], 1))
    assert sum(found.votes.values()) == len(found.images) == 12
    # Most pictures are nearest to their own blazon, so that most strangers have no votes and are gone.
    right = [s for s in found.images if found.names[s.label] == BLAZONS[int(Path(s.path).stem.split("-")[0])].name]
    assert len(right) >= 8 and len(found.names) <= 7
    few = chosen(recipe_of("discover.vote_by=retriever", "discover.min_votes=3"), encoder, samples, found.guessed)
    assert set(few.names) < set(found.names) or few.names == found.names
    assert all(votes >= 3 for votes in few.votes.values())
    assert few.metadata["images_without_name"] == 12 - len(few.images)


def test_every_guess_is_kept_where_nobody_votes(recipe_of, encoder, samples):
    found = chosen(recipe_of("discover.vote_by=none"), encoder, samples, dict.fromkeys(NAMES, 2))
    assert (found.names, set(found.votes.values()), found.images) == (NAMES, {0}, [])


def test_a_picture_is_never_its_own_neighbour_in_the_memory(recipe_of, encoder, samples):
    recipe = recipe_of("discover.memory=image", "eval.k=4")
    args = with_templates(recipe.retriever, Dataset("armory", (), {}))
    labelled = [Sample(s.key, s.path, place // 3, s.digest) for place, s in enumerate(samples)]
    votes = {blazon.name: 3 for blazon in BLAZONS}
    vocabulary = Vocabulary(1, votes, votes, labelled, {})
    xq = embed_images(encoder, samples, args, Path(recipe.cache))
    found = retrieve_by_vocabulary(recipe, encoder, args, vocabulary, samples, xq)
    assert max(candidate.score for row in found for candidate in row) < 0.9999
    assert all(len(row) == 4 for row in found)
    told = retrieve_by_vocabulary(recipe_of(), encoder, args, given_vocabulary(dict.fromkeys(NAMES, 1)), samples, xq)
    assert {candidate.name for row in told for candidate in row} == set(NAMES)
