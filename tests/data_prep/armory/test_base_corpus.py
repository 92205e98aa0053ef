"""The training corpus of the nano models: only base blazons, each with its own image."""

import shutil
from dataclasses import astuple

import numpy as np
import pytest

from data_prep.armory.base_corpus import base_corpus
from data_prep.armory.blazon import DETAILS, owning_split
from data_prep.core.errors import UserError
from tests.damage import contents, damage


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def corpus(cache):
    return base_corpus(cache, thousands=1, size=24, seed=0)


def test_every_blazon_belongs_to_the_base_split(corpus):
    assert {owning_split(blazon.name) for blazon in corpus.blazons} == {"base"}
    assert len({blazon.name for blazon in corpus.blazons}) > 990


def test_details_are_indices_into_the_vocabularies(corpus):
    assert corpus.details.shape == (1000, len(DETAILS))
    for indices, blazon in zip(corpus.details, corpus.blazons, strict=True):
        assert tuple(values[i] for i, values in zip(indices, DETAILS.values(), strict=True)) == astuple(blazon)


def test_an_image_shows_the_blazon_of_its_row(corpus):
    """Red fields are redder than blue ones on average; images in another order would not be."""
    assert corpus.images.shape == (1000, 24, 24, 3)
    redness = corpus.images.astype(float)[..., 0].mean((1, 2)) - corpus.images.astype(float)[..., 2].mean((1, 2))
    plain = {
        tincture: [n for n, b in enumerate(corpus.blazons) if (b.division, b.field) == ("plain", tincture)]
        for tincture in ("gules", "azure")
    }
    assert redness[plain["gules"]].mean() > redness[plain["azure"]].mean() + 20


def test_a_second_call_opens_the_cached_corpus(corpus, cache):
    (folder,) = cache.iterdir()
    before = (folder / "images.npy").stat().st_mtime_ns
    again = base_corpus(cache, thousands=1, size=24, seed=0)
    assert again.fingerprint == corpus.fingerprint
    assert again.blazons == corpus.blazons
    assert np.array_equal(again.images, corpus.images)
    assert (folder / "images.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("file", ["images.npy", "blazons.json", "manifest.json"])
def test_damage_raises_and_deleting_the_folder_gives_the_same_corpus_again(corpus, cache, tmp_path, file):
    (original,) = cache.iterdir()
    folder = shutil.copytree(original, tmp_path / original.name)
    damage(folder / file, "flipped")
    with pytest.raises(UserError, match=rf"{file}: damaged .*; delete {folder} to have it made again"):
        base_corpus(tmp_path, thousands=1, size=24, seed=0)
    if file == "images.npy":
        shutil.rmtree(folder)
        base_corpus(tmp_path, thousands=1, size=24, seed=0)
        assert contents(folder) == contents(original)
