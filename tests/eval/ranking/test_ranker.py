"""The ranker as a program uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.embedding.encoder import load_encoder
from eval.ranking.ranker import Ranker
from eval.recognition.class_memory import embed_pictures


@pytest.fixture(scope="module")
def ranker(finished: Path) -> Ranker:
    """By likelihood."""
    return Ranker.from_pretrained(finished)


def asked(many):
    return [question.image for question in many], [question.names for question in many]


def test_rankings_do_not_depend_on_the_batch_on_order_or_on_where_the_image_lies(ranker, many, tmp_path):
    images, names = asked(many)
    ranked = ranker.rank(images, names)
    assert [sorted(ranking.order) for ranking in ranked] == [list(range(len(own))) for own in names]
    for place in (0, 5):
        assert ranker.rank([images[place]], [names[place]])[0].order == ranked[place].order
    assert [r.order for r in ranker.rank(images[::-1], names[::-1])][::-1] == [r.order for r in ranked]
    moved = tmp_path / "elsewhere.png"
    moved.write_bytes(Path(images[0]).read_bytes())
    with Image.open(images[0]) as image:
        for same in (moved, image):
            assert ranker.rank([same], [names[0]])[0].order == ranked[0].order


def odd_pictures(folder: Path) -> list[Path]:
    """Pictures that a plain conversion to RGB shows otherwise: turned, of 16 bits, with a transparent colour."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (40, 80, 3), np.uint8)).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(rng.integers(0, 65536, (64, 64), np.uint16)).save(folder / "deep.png")
    Image.fromarray(rng.integers(0, 2, (64, 64), np.uint8)).convert("P").save(folder / "clear.png", transparency=0)
    return sorted(folder.iterdir())


def test_a_picture_in_memory_is_seen_as_its_file_by_ranker_and_retriever(ranker, many, tmp_path):
    files = odd_pictures(tmp_path)
    encoder, names = load_encoder(ranker.recipe.retriever), many[0].names
    for file in files:
        with Image.open(file) as image:
            held, filed = ranker.rank([image, file], [names] * 2)
            assert held.probabilities == filed.probabilities, file.name
            vectors = embed_pictures(encoder, [image, file], ranker.recipe)
            np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6, err_msg=file.name)


def test_it_ranks_far_better_than_chance(ranker, many):
    """The truth is the first name of each, among near-duplicates."""
    images, names = asked(many)
    turned = [own[::-1] for own in names]
    hits = [r.order[0] == len(own) - 1 for r, own in zip(ranker.rank(images, turned), names, strict=True)]
    assert sum(hits) > 2 * sum(1 / len(own) for own in names)


def test_settings_choose_the_mode_and_several_orders(finished, many):
    ranker = Ranker.from_pretrained(finished, "ranker.mode=letters", "eval.permutations=3", "eval.batch_size=5")
    one = Ranker(ranker.mllm, Ranker.from_pretrained(finished, "ranker.mode=letters").recipe)
    images, names = asked(many)
    several = ranker.rank(images, names)
    assert [r.probabilities for r in several] != [r.probabilities for r in one.rank(images, names)]
    assert [r.order for r in ranker.rank(images[:3], names[:3])] == [r.order for r in several[:3]]


def test_the_base_model_alone_answers_otherwise(finished, ranker, many):
    images, names = asked(many)
    base = Ranker.from_pretrained(finished, tuned=False)
    assert [r.probabilities for r in base.rank(images, names)] != [r.probabilities for r in ranker.rank(images, names)]


def test_duplicate_names_one_candidate_and_many(ranker, many):
    image, names = many[4].image, many[4].names
    twice, one, lots = ranker.rank([image] * 3, [(*names, names[0]), names[:1], [f"a bend {n}" for n in range(40)]])
    assert twice.probabilities[0] == twice.probabilities[-1]
    assert twice.order.index(len(names)) == twice.order.index(0) + 1
    assert (one.order, one.probabilities) == ((0,), (1.0,))
    assert sorted(lots.order) == list(range(40))


def test_mistakes_are_named(ranker, many, tmp_path):
    images, names = asked(many)
    with pytest.raises(UserError, match=r"2 images, but candidates for 1"):
        ranker.rank(images[:2], names[:1])
    with pytest.raises(UserError, match="no candidates"):
        ranker.rank(images[:1], [[]])
    with pytest.raises(UserError, match=r"gone\.png: no such image"):
        ranker.rank([tmp_path / "gone.png"], names[:1])
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):
        ranker.rank([tmp_path / "bad.png"], names[:1])
    with pytest.raises(UserError, match="1 examples for 2 candidates"):
        ranker.rank(images[:1], [names[0][:2]], [["a.png"]])
    with pytest.raises(UserError, match="no run there"):
        Ranker.from_pretrained(tmp_path)
