"""The ``Ranker`` class as a program uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.embedding.encoder import load_encoder
from data_prep.settings.loading import load_saved_recipe
from eval.ranking.ranker import Ranker
from eval.recognizer.new_images import embed_uncached


@pytest.fixture(scope="module")
def ranker(finished: Path) -> Ranker:
    """A ranker in mode likelihood."""
    return Ranker.from_pretrained(finished)


def images_and_names(many):
    return [request.image for request in many], [request.names for request in many]


def test_rankings_do_not_depend_on_the_batch_on_order_or_on_the_path_of_the_image(ranker, many, tmp_path):
    images, names = images_and_names(many)
    ranked = ranker.rank(images, names)
    assert [sorted(ranking.order) for ranking in ranked] == [list(range(len(row))) for row in names]
    for index in (0, 5):
        assert ranker.rank([images[index]], [names[index]])[0].order == ranked[index].order
    assert [r.order for r in ranker.rank(images[::-1], names[::-1])][::-1] == [r.order for r in ranked]
    moved = tmp_path / "elsewhere.png"
    moved.write_bytes(Path(images[0]).read_bytes())
    with Image.open(images[0]) as image:
        for same in (moved, image):
            assert ranker.rank([same], [names[0]])[0].order == ranked[0].order


def write_special_images(folder: Path) -> list[Path]:
    """Writes images that a plain conversion to RGB gets wrong: rotated by EXIF, 16 bits, a transparent colour."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (40, 80, 3), np.uint8)).save(folder / "rotated.jpg", exif=exif)
    Image.fromarray(rng.integers(0, 65536, (64, 64), np.uint16)).save(folder / "deep.png")
    Image.fromarray(rng.integers(0, 2, (64, 64), np.uint8)).convert("P").save(folder / "clear.png", transparency=0)
    return sorted(folder.iterdir())


def test_an_image_in_memory_is_decoded_like_its_file_by_ranker_and_retriever(ranker, many, tmp_path):
    files = write_special_images(tmp_path)
    encoder, names = load_encoder(ranker.recipe.retriever), many[0].names
    for file in files:
        with Image.open(file) as image:
            from_memory, from_file = ranker.rank([image, file], [names] * 2)
            assert from_memory.probabilities == from_file.probabilities, file.name
            vectors = embed_uncached(encoder, [image, file], ranker.recipe)
            np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6, err_msg=file.name)


def test_it_ranks_far_better_than_chance(ranker, many):
    """The true class is the first name of each, among near-duplicates."""
    images, names = images_and_names(many)
    reversed_names = [row[::-1] for row in names]
    hits = [r.order[0] == len(row) - 1 for r, row in zip(ranker.rank(images, reversed_names), names, strict=True)]
    assert sum(hits) > 2 * sum(1 / len(row) for row in names)


def test_settings_set_the_mode_and_the_number_of_permutations(finished, many):
    ranker = Ranker.from_pretrained(finished, "ranker.mode=letters", "eval.permutations=3", "eval.batch_size=5")
    single = Ranker(ranker.mllm, Ranker.from_pretrained(finished, "ranker.mode=letters").recipe)
    images, names = images_and_names(many)
    ranked = ranker.rank(images, names)
    assert [r.probabilities for r in ranked] != [r.probabilities for r in single.rank(images, names)]
    assert [r.order for r in ranker.rank(images[:3], names[:3])] == [r.order for r in ranked[:3]]


def test_the_base_model_alone_gives_other_probabilities(finished, ranker, many):
    images, names = images_and_names(many)
    base = Ranker.from_pretrained(finished, tuned=False)
    assert [r.probabilities for r in base.rank(images, names)] != [r.probabilities for r in ranker.rank(images, names)]


def test_duplicate_names_a_single_candidate_and_forty_are_ranked(ranker, many):
    image, names = many[4].image, many[4].names
    duplicate, single, forty = ranker.rank(
        [image] * 3, [(*names, names[0]), names[:1], [f"a bend {n}" for n in range(40)]]
    )
    assert duplicate.probabilities[0] == duplicate.probabilities[-1]
    assert duplicate.order.index(len(names)) == duplicate.order.index(0) + 1
    assert (single.order, single.probabilities) == ((0,), (1.0,))
    assert sorted(forty.order) == list(range(40))


def test_mistakes_are_named(finished, ranker, many, tmp_path):
    images, names = images_and_names(many)
    with pytest.raises(UserError, match=r"2 images, but candidates for 1"):
        ranker.rank(images[:2], names[:1])
    for flat in (["a bend"], "a bend"):
        with pytest.raises(UserError, match="give a list of names for each image"):
            ranker.rank(images[:1], flat)
    with pytest.raises(UserError, match="give images as a list"):
        ranker.rank("photo.jpg", [["a bend"]])
    with pytest.raises(UserError, match="no candidates"):
        ranker.rank(images[:1], [[]])
    with pytest.raises(UserError, match=r"gone\.png: no such image"):
        ranker.rank([tmp_path / "gone.png"], names[:1])
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):
        ranker.rank([tmp_path / "bad.png"], names[:1])
    single = Ranker(ranker.mllm, load_saved_recipe(finished / "recipe.yaml", ["eval.batch_size=1"]))
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):  # in the thread that prepares batches
        single.rank([*images[:2], tmp_path / "bad.png"], names[:3])
    with pytest.raises(UserError, match="1 examples for 2 candidates"):
        ranker.rank(images[:1], [names[0][:2]], [["a.png"]])
    with pytest.raises(UserError, match="no run there"):
        Ranker.from_pretrained(tmp_path)
