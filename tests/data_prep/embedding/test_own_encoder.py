"""Encoders of the user's own: what they return is checked, and a change of code or metadata is another encoder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Sample
from data_prep.embedding.encoder import embed_images, embed_names, load_encoder
from data_prep.extensions.finding import ENCODERS
from data_prep.memory.memories import Memories
from data_prep.memory.memory import Entry, Memory
from data_prep.settings import RetrieverArgs, TrainerArgs
from tests.extending_page import install

CODE = """
import numpy as np
import torch
from data_prep import Encoder

class Own(Encoder):
    id = "own"
    metadata = {"version": 1}
    def __init__(self):
        self.unpicklable = lambda: None
    def preprocess(self, image):
        return np.asarray(image.resize((4, 4)), np.float32).ravel() + 1
    def encode_images(self, images):
        return IMAGES
    def encode_texts(self, texts):
        rows = np.array([[len(text), 1.0] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

def load(args):
    return Own()
"""
RIGHT = "images / images.norm(dim=-1, keepdim=True)"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the module of an encoder with an expression for its vectors, and other changes; returns its reference."""
    monkeypatch.chdir(tmp_path)
    written = []

    def write(images: str = RIGHT, replaced: str = "", by: str = "") -> str:
        name = f"own_encoder_{len(written)}_{tmp_path.name}".replace("-", "_")
        written.append(name)
        assert replaced in CODE
        (tmp_path / f"{name}.py").write_text(CODE.replace("IMAGES", images).replace(replaced or "\0", by))
        return f"{name}:load"

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def samples(tmp_path, draw_picture):
    paths = [draw_picture(tmp_path / "images" / f"{n}.png", n) for n in range(40)]
    return [Sample(f"k{n}", str(path), n % 2, file_hash(path)) for n, path in enumerate(paths)]


def embed(model: str, samples: list[Sample], cache: Path, devices: int = 1, **settings) -> np.ndarray:
    args = RetrieverArgs(model=model, **settings)
    return embed_images(load_encoder(args, TrainerArgs(accelerator="cpu", devices=devices)), samples, args, cache)


def test_its_vectors_are_cached_under_its_id(own, samples, tmp_path):
    model = own()
    vectors = embed(model, samples, tmp_path / "cache")
    assert vectors.shape == (40, 48) and np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(40), abs=1e-5)
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name == f"embeddings-{load_encoder(RetrieverArgs(model=model)).id}"
    assert (embed(model, samples[::-1], tmp_path / "cache", batch_size=3) == vectors[::-1]).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("images.tolist()", "encode_images returned list, not a tensor or an array"),
        ("images[:, :, None]", r"returned a shape of \[7, 48, 1\] for 7 inputs, not \[7, d\]"),
        ("images[1:]", r"returned a shape of \[6, 48\] for 7 inputs"),
        ("images.double()", "returned float64, not float32"),
        ("images", "returned vectors with norms in .* instead of 1; normalise them"),
        ("images * float('nan')", "returned vectors that are not finite"),
    ],
)
def test_wrong_vectors_are_refused_in_one_line_that_names_the_setting(own, samples, tmp_path, images, message):
    model = own(images)
    with pytest.raises(UserError, match=f"^retriever.model={model}: .*{message}") as caught:
        embed(model, samples[:7], tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*/part-*")), "nothing wrong is kept"


def test_built_in_names_come_before_entry_points(own, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    reference = own()
    for name in ("nano-clip", "ViT-B-32", "mine"):
        install(tmp_path, ENCODERS, name, reference)
    assert load_encoder(RetrieverArgs(model="nano-clip")).id.startswith("nano-clip-")
    with pytest.raises(UserError, match=r"retriever\.model=ViT-B-32 needs retriever\.pretrained"):
        load_encoder(RetrieverArgs(model="ViT-B-32"))
    assert load_encoder(RetrieverArgs(model="mine")).id.startswith("own-")


@pytest.mark.parametrize(
    ("replaced", "by", "message"),
    [
        ("return Own()", "return 3", "returned int; return an instance of data_prep.Encoder"),
        ("return Own()", "return 1 / 0", "it failed: ZeroDivisionError"),
        ('id = "own"', 'id = "my own/encoder"', "its id is 'my own/encoder'"),
        ('id = "own"', "pass", "its id is None"),
        ('{"version": 1}', '{"weights": object()}', "its metadata is no dictionary of plain JSON values"),
    ],
)
def test_an_unusable_encoder_is_refused_when_it_is_loaded(own, replaced, by, message):
    with pytest.raises(UserError, match=message):
        load_encoder(RetrieverArgs(model=own(RIGHT, replaced, by)))


def test_a_change_of_code_or_metadata_is_another_encoder(own):
    models = [own(), own(), own(f"-{RIGHT}"), own(RIGHT, '"version": 1', '"version": 2')]
    ids = [load_encoder(RetrieverArgs(model=model)).id for model in models]
    assert ids[0] == ids[1] and len(set(ids)) == 3
    assert all(name.startswith("own-") for name in ids)


def test_images_and_texts_of_different_spaces_are_refused(own, samples, tmp_path):
    args = RetrieverArgs(model=own())
    encoder = load_encoder(args)
    names = embed_names(encoder, ["a", "bcd"], args, tmp_path / "cache")
    images = Memory.build(embed(args.model, samples[:2], tmp_path / "cache"), [Entry(0, "image", "x")] * 2, encoder.id)
    with pytest.raises(UserError, match="it embeds images in 48 dimensions, and texts in 2"):
        Memories(images, Memory.build(names, [Entry(0, "name", "a"), Entry(1, "name", "bcd")], encoder.id))


@pytest.mark.slow
def test_several_processes_import_it_again_and_give_the_same_vectors(own, samples, tmp_path):
    model = own()
    alone = embed(model, samples, tmp_path / "one", batch_size=2)
    assert (embed(model, samples, tmp_path / "two", devices=2, batch_size=2) == alone).all()
    assert len(list((tmp_path / "two").glob("*/part-*"))) == 2, "each process wrote a part"
