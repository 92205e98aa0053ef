"""Shards: what is written reads back, in any reader of WebDataset, and damage is named."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.errors import UserError
from data_prep.records import Candidate, RankingExample
from data_prep.shards import ShardedExamples, from_json, write_shards

candidates = st.builds(Candidate, st.integers(0, 9), st.text(max_size=20), st.floats(-1, 1, width=32))
keys = st.text(st.sampled_from("abcXYZ019-_"), min_size=1, max_size=95)
some_examples = st.lists(
    st.builds(RankingExample, keys, st.integers(0, 9), st.lists(candidates, min_size=1, max_size=4).map(tuple)),
    min_size=1,
    max_size=7,
    unique_by=lambda example: example.key,
)


def example(number: int) -> RankingExample:
    return RankingExample(
        f"key-{number}-image", number % 3, (Candidate(0, "l'or, d’été", 0.5), Candidate(1, "b", 0.25))
    )


@pytest.fixture
def written(tmp_path, draw_picture):
    folder = tmp_path / "shards"
    folder.mkdir()
    pairs = [(example(n), draw_picture(tmp_path / f"{n}.png", n)) for n in range(5)]
    write_shards(folder, pairs, 2, {"part": "tuning"})
    return folder, pairs


@given(some_examples, st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_examples_and_their_images_read_back_in_order(examples, shard_size):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "shards"
        folder.mkdir()
        images = []
        for number in range(len(examples)):
            images.append(Path(place) / f"{number}.png")
            Image.new("RGB", (3, 2), (number, 0, 99)).save(images[-1])
        write_shards(folder, zip(examples, images, strict=True), shard_size, {})
        found = ShardedExamples(folder)
        read = [found[number] for number in range(len(found))]
        assert [one for one, _ in read] == examples
        assert [image.getpixel((0, 0)) for _, image in read] == [(n, 0, 99) for n in range(len(examples))]


def test_any_example_is_read_alone_and_as_rgb(tmp_path):
    Image.new("L", (4, 4), 7).save(tmp_path / "grey.jpg")
    Image.new("RGBA", (4, 4), (1, 2, 3, 0)).save(tmp_path / "ALPHA.PNG")
    (tmp_path / "shards").mkdir()
    write_shards(
        tmp_path / "shards", [(example(0), tmp_path / "grey.jpg"), (example(1), tmp_path / "ALPHA.PNG")], 9, {}
    )
    found = ShardedExamples(tmp_path / "shards")
    assert [found[n][1].mode for n in (1, 0)] == ["RGB", "RGB"]
    assert found[1][0] == example(1)


def test_webdataset_reads_the_shards(written):
    folder, pairs = written
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    assert len(urls) == 3
    rows = list(wds.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [row["__key__"] for row in rows] == [one.key for one, _ in pairs]
    assert [from_json(row["json"]) for row in rows] == [one for one, _ in pairs]
    for row, (_, path) in zip(rows, pairs, strict=True):
        assert np.array_equal(np.asarray(row["png"]), np.asarray(Image.open(path).convert("RGB")))


def test_image_bytes_are_kept_as_they_are(written):
    folder, pairs = written
    raw = next(iter(wds.WebDataset(str(folder / "examples-000000.tar"), shardshuffle=False)))
    assert raw["png"] == pairs[0][1].read_bytes()


def test_bytes_depend_on_the_examples_alone(written, tmp_path):
    folder, pairs = written
    again = tmp_path / "again"
    again.mkdir()
    write_shards(again, pairs, 2, {"part": "tuning"})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in again.iterdir()}


def test_manifest_counts_the_examples_and_keeps_the_facts(written):
    manifest = ShardedExamples(written[0]).manifest
    assert (manifest["examples"], manifest["part"]) == (5, "tuning")


@pytest.mark.parametrize("name", ["examples-000001.tar", "index.jsonl"])
def test_a_corrupt_or_missing_file_is_named(written, name):
    file = written[0] / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: damaged .* to have it made again"):
        ShardedExamples(written[0])
    file.unlink()
    with pytest.raises(UserError, match=f"{name}: missing; delete"):
        ShardedExamples(written[0])


def test_a_folder_without_manifest_is_a_readable_error(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json: no such file"):
        ShardedExamples(tmp_path)


def test_an_image_whose_file_name_has_no_suffix_is_kept_too(tmp_path):
    """A table may list any path, and the readers accept what decodes."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "png")
    (tmp_path / "picture").write_bytes(buffer.getvalue())
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [(example(0), tmp_path / "picture")], 9, {})
    assert ShardedExamples(tmp_path / "shards")[0][1].size == (4, 4)
