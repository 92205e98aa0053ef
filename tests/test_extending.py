"""The examples of docs/extending.md: readers, metrics and encoders, by reference and entry point."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Sample
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import embed_images, embed_names, load_encoder
from data_prep.reading.dataset import PARTS
from data_prep.settings import DataArgs, RetrieverArgs
from eval.metrics.further import compute_metrics, load_metrics
from tests.extending_page import install, write_examples


@pytest.fixture(autouse=True)
def _examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the working folder one that holds the page's files, and forgets their modules afterwards."""
    monkeypatch.chdir(tmp_path)
    modules = write_examples(tmp_path)
    assert set(modules) == {"shells", "minerals", "names", "mirrored", "colours"}
    yield
    for module in modules:
        sys.modules.pop(module, None)


def draw(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(blocks).resize((24, 24), Image.NEAREST).save(path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    paths = [draw(tmp_path / "images" / f"{n}.png", n) for n in range(4)]
    return [Sample(f"k{n}", str(path), n % 2, file_hash(path)) for n, path in enumerate(paths)]


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str, Path], Dataset]:
    return lambda name, root: read_dataset(DataArgs(name=name, root=str(root)), tmp_path / "cache", PARTS)


def write_shells(base: Path) -> None:
    seed = 0
    for split, count in (("train", 4), ("test", 2)):
        lines = []
        for name in ("dog whelk", "cowrie"):
            for number in range(count):
                path = f"{split}/{name.split()[0]}{number}.png"
                seed += 1
                draw(base / path, seed)
                lines.append(f"{path} {name}\n")
        (base / f"{split}.txt").write_text("".join(lines))


def test_the_pages_reader_of_fixed_splits_works(read, tmp_path):
    base = tmp_path / "data" / "shells"
    write_shells(base)
    dataset = read("shells:read_shells", tmp_path / "data")
    assert dataset.names == ("cowrie", "dog whelk") and dataset.templates == ("a photo of a {}, a type of shell.",)
    counts = {part: len(samples) for part, samples in dataset.parts.items()}
    assert counts == {"train": 6, "val_memory": 6, "val": 2, "test_memory": 8, "test": 4}
    assert read("shells:read_shells", base) == dataset
    (base / "train" / "dog0.png").unlink()
    with pytest.raises(UserError, match=r"dog0\.png: no such image"):
        read("shells:read_shells", base)
    (base / "train.txt").unlink()
    with pytest.raises(UserError, match=r"from https://shells\.example"):
        read("shells:read_shells", tmp_path / "data")


def test_the_pages_reader_of_rows_works(read, tmp_path):
    lines = ["file,mineral\n"]
    for label, name in enumerate(("quartz", "beryl")):
        for number in range(5):
            draw(tmp_path / "data" / f"{name}{number}.png", 10 * label + number)
            lines.append(f"{name}{number}.png,{name}\n")
    (tmp_path / "data" / "labels.csv").write_text("".join(lines))
    dataset = read("minerals:read_minerals", tmp_path / "data")
    assert dataset.names == ("beryl", "quartz")
    assert [len(dataset.parts[part]) for part in ("train", "val", "test")] == [6, 2, 2]


def test_the_pages_metric_counts_genera():
    predictions = [
        {"truth": "Lynx lynx", "ranking": ["Lynx rufus", "Lynx lynx"]},
        {"truth": "Felis catus", "ranking": ["Lynx lynx", "Felis catus"]},
    ]
    assert compute_metrics(load_metrics(["names:genus_top1"]), predictions, "row") == {"genus_top1": 0.5}


def test_the_pages_encoder_does_not_tell_a_picture_from_its_mirror_image(samples, tmp_path):
    mirrored, plain = (load_encoder(RetrieverArgs(model=model)) for model in ("mirrored:load", "nano-clip"))
    flipped = []
    for sample in samples:
        path = tmp_path / "flipped" / f"{sample.key}.png"
        path.parent.mkdir(exist_ok=True)
        Image.open(sample.path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
        flipped.append(Sample(sample.key, str(path), sample.label, file_hash(path)))
    args, cache = RetrieverArgs(), tmp_path / "cache"
    pairs = [[embed_images(encoder, rows, args, cache) for rows in (samples, flipped)] for encoder in (mirrored, plain)]
    assert pairs[0][0] == pytest.approx(pairs[0][1], abs=1e-5)
    assert np.abs(pairs[1][0] - pairs[1][1]).max() > 0.01
    names = ["azure, a bend or", "gules"]
    assert (embed_names(mirrored, names, args, cache) == embed_names(plain, names, args, cache)).all()


def test_the_pages_encoder_of_images_alone_says_that_it_has_no_names(samples, tmp_path):
    encoder = load_encoder(RetrieverArgs(model="colours:load"))
    vectors = embed_images(encoder, samples, RetrieverArgs(), tmp_path / "cache")
    assert vectors.shape == (4, 64) and np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4))
    with pytest.raises(UserError, match=r"retriever\.model=colours:load embeds images alone"):
        embed_names(encoder, ["azure"], RetrieverArgs(), tmp_path / "cache")


def test_an_entry_points_name_is_used_like_a_built_in_one(read, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    write_shells(tmp_path / "data" / "shells")
    install(tmp_path, "rar_train.datasets", "seashells", "shells:read_shells")
    install(tmp_path, "rar_train.encoders", "hues", "colours:load")
    install(tmp_path, "rar_train.metrics", "genus", "names:genus_top1")
    by_name, by_reference = read("seashells", tmp_path / "data"), read("shells:read_shells", tmp_path / "data")
    assert by_name.parts == by_reference.parts and by_name.name == "seashells"
    ids = {load_encoder(RetrieverArgs(model=model)).id for model in ("hues", "colours:load")}
    assert len(ids) == 1, "one encoder, whatever it is called"
    assert compute_metrics(load_metrics(["genus"]), [{"truth": "a b", "ranking": ["a c"]}], "row") == {"genus": 1.0}
    for message, load in (
        ("data.name=shels: there are .*, seashells", lambda: read("shels", tmp_path)),
        (r"eval.metrics: genera: there are .*, genus;", lambda: load_metrics(["genera"])),
    ):
        with pytest.raises(UserError, match=message):
            load()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "returned int; return a data_prep.reading.dataset.Dataset"),
        ("return 1 / 0", r"it failed: ZeroDivisionError: division by zero \(.*\.py, line 6\)"),
        ("return Dataset('d', ['a', 'b'], {})", "names must be a tuple of class names"),
        ("return Dataset('d', ('a', 'b'), {'train': []})", "has no part val"),
        ("return made(label=2)", "sample 0 of train has label 2; it is an int from 0 to 1"),
        ("return made(digest='x')", "sample 0 of train has digest 'x'; it is the SHA-256 of the file"),
        ("return made(key='a.b')", r"sample 0 of train has key 'a\.b'; sample_key makes one"),
        ("return made(twice=True)", "sample 1 of train has key 'k'"),
    ],
)
def test_what_a_reader_returns_is_checked_and_the_mistake_named(body, message, tmp_path):
    name = f"reader_{abs(hash((body, str(tmp_path))))}"
    code = f"""
from data_prep.core.records import Sample
from data_prep.reading.dataset import Dataset

def read(args, cache, parts):
    {body}

def made(key="k", label=0, digest="0" * 64, twice=False):
    return Dataset("d", ("a", "b"), {{"train": [Sample(key, "x.png", label, digest)] * (1 + twice), "val": []}})
"""
    (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(UserError, match=rf"^data\.name={name}:read: .*{message}"):
        read_dataset(DataArgs(name=f"{name}:read"), tmp_path / "cache", ("train", "val"))
