"""Shards read back as written, also with other WebDataset readers, and errors name damaged files."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.mining.shards import ShardedExamples, from_json, write_shards

candidates = st.builds(
    Candidate,
    st.integers(0, 9),
    st.text(max_size=20),
    st.floats(-1, 1, width=32),
    st.none() | st.floats(-1, 1, width=32),
)
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


def sample(path: Path) -> Sample:
    return Sample(path.stem, str(path), 0, file_hash(path))


@pytest.fixture
def written(tmp_path, draw_picture):
    folder = tmp_path / "shards"
    folder.mkdir()
    pairs = [(example(n), sample(draw_picture(tmp_path / f"{n}.png", n))) for n in range(5)]
    write_shards(folder, pairs, 2, {"part": "train"})
    return folder, pairs


def test_the_size_of_a_rotated_photo_is_the_size_after_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "0.jpg", exif=exif)
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [(example(0), sample(tmp_path / "0.jpg"))], 1, {})
    examples = ShardedExamples(tmp_path / "shards")
    assert examples.image_size(0) == examples[0][1].size == (20, 40)


@given(some_examples, st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_examples_and_their_images_read_back_in_order(examples, shard_size):
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "shards"
        folder.mkdir()
        images = []
        for number in range(len(examples)):
            images.append(Path(parent) / f"{number}.png")
            Image.new("RGB", (3, 2), (number, 0, 99)).save(images[-1])
        write_shards(folder, zip(examples, map(sample, images), strict=True), shard_size, {})
        sharded = ShardedExamples(folder)
        pairs = [sharded[index] for index in range(len(sharded))]
        assert [read for read, _ in pairs] == examples
        assert [image.getpixel((0, 0)) for _, image in pairs] == [(n, 0, 99) for n in range(len(examples))]


def test_examples_are_read_in_any_order_and_images_as_rgb(tmp_path):
    Image.new("L", (4, 4), 7).save(tmp_path / "grey.jpg")
    Image.new("RGBA", (4, 4), (1, 2, 3, 0)).save(tmp_path / "ALPHA.PNG")
    (tmp_path / "shards").mkdir()
    samples = [sample(tmp_path / name) for name in ("grey.jpg", "ALPHA.PNG")]
    write_shards(tmp_path / "shards", [(example(n), samples[n]) for n in range(2)], 9, {})
    examples = ShardedExamples(tmp_path / "shards")
    assert [examples[n][1].mode for n in (1, 0)] == ["RGB", "RGB"]
    assert examples[1][0] == example(1)


def test_webdataset_reads_the_shards(written):
    folder, pairs = written
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    assert len(urls) == 3
    rows = list(wds.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [row["__key__"] for row in rows] == [written_example.key for written_example, _ in pairs]
    assert [from_json(row["json"]) for row in rows] == [written_example for written_example, _ in pairs]
    for row, (_, image_sample) in zip(rows, pairs, strict=True):
        assert np.array_equal(np.asarray(row["png"]), np.asarray(Image.open(image_sample.path).convert("RGB")))


def test_image_bytes_are_kept_as_they_are(written):
    folder, pairs = written
    raw = next(iter(wds.WebDataset(str(folder / "examples-000000.tar"), shardshuffle=False)))
    assert raw["png"] == Path(pairs[0][1].path).read_bytes()


def test_the_bytes_depend_only_on_the_examples(written, tmp_path):
    folder, pairs = written
    again = tmp_path / "again"
    again.mkdir()
    write_shards(again, pairs, 2, {"part": "train"})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in again.iterdir()}


def test_the_manifest_counts_the_examples_and_keeps_the_metadata(written):
    manifest = ShardedExamples(written[0]).manifest
    assert (manifest["examples"], manifest["part"]) == (5, "train")


@pytest.mark.parametrize("name", ["examples-000001.tar", "index.jsonl"])
def test_the_error_about_a_damaged_or_missing_file_names_it(written, name):
    file = written[0] / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: damaged .* to have it made again"):
        ShardedExamples(written[0])
    file.unlink()
    with pytest.raises(UserError, match=f"{name}: missing; delete"):
        ShardedExamples(written[0])


def test_a_changed_digit_in_the_manifest_is_detected(written):
    path = written[0] / "manifest.json"
    path.write_text(path.read_text().replace('"examples": 5', '"examples": 6'))
    with pytest.raises(
        UserError, match=r"manifest\.json: damaged \(its checksum differs\); delete .*shards to have it"
    ):
        ShardedExamples(written[0])


def test_the_remedy_for_shards_outside_the_cache_is_not_to_delete_them(written):
    (written[0] / "index.jsonl").unlink()
    with pytest.raises(UserError, match=r"index\.jsonl: missing; copy it again$"):
        ShardedExamples(written[0], "copy it again")


def test_a_folder_without_manifest_is_a_readable_error(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json: no such file"):
        ShardedExamples(tmp_path)


def test_an_image_without_a_file_suffix_is_stored_too(tmp_path):
    """A table may list any path, and the readers accept every file that decodes."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "png")
    (tmp_path / "image").write_bytes(buffer.getvalue())
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [(example(0), sample(tmp_path / "image"))], 9, {})
    assert ShardedExamples(tmp_path / "shards")[0][1].size == (4, 4)


def test_paths_are_stored_instead_of_bytes_and_a_changed_image_is_detected(written, tmp_path):
    folder, pairs = written
    light = tmp_path / "light"
    light.mkdir()
    write_shards(light, pairs, 2, {}, "paths")
    sizes = [sum(path.stat().st_size for path in shards.glob("*.tar")) for shards in (light, folder)]
    raw, by_path = ShardedExamples(folder), ShardedExamples(light)
    assert sizes[0] <= sizes[1]
    for number in range(5):
        assert by_path[number][0] == raw[number][0]
        assert by_path[number][1].tobytes() == raw[number][1].tobytes()
    Path(pairs[3][1].path).write_bytes(Path(pairs[2][1].path).read_bytes())
    with pytest.raises(UserError, match=r"3\.png: changed since example key-3-image"):
        by_path[3]
    Path(pairs[4][1].path).unlink()
    with pytest.raises(UserError, match=r"4\.png: missing; example key-4-image"):
        by_path[4]


def test_shards_of_an_earlier_version_are_read():
    """Their candidates have no name similarity."""
    old = {"key": "a", "label": 1, "candidates": [{"label": 1, "name": "b", "score": 0.5}]}
    assert from_json(old) == RankingExample("a", 1, (Candidate(1, "b", 0.5),))


def test_the_manifest_counts_each_shard_and_hashes_other_files_in_the_folder(tmp_path, draw_picture):
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "other.txt").write_text("x")
    write_shards(folder, [(example(n), sample(draw_picture(tmp_path / f"{n}.png", n))) for n in range(3)], 2, {})
    manifest = ShardedExamples(folder).manifest
    assert manifest["shards"] == {"examples-000000.tar": 2, "examples-000001.tar": 1}
    (folder / "other.txt").write_text("y")
    with pytest.raises(UserError, match=r"other\.txt: damaged"):
        ShardedExamples(folder)


@pytest.mark.parametrize("name", ["100%data", "50%d", "c:x", "pipe:touch ran;"])
def test_a_folder_name_is_not_taken_for_a_url_or_a_pattern(tmp_path, draw_picture, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    write_shards(Path(name), [(example(n), sample(draw_picture(tmp_path / f"{n}.png", n))) for n in range(3)], 2, {})
    assert len(ShardedExamples(Path(name))) == 3 and len(list(Path(name).glob("*.tar"))) == 2
    assert not Path("ran").exists()


def test_an_image_with_another_suffix_is_stored_under_its_format(tmp_path, draw_picture):
    image = draw_picture(tmp_path / "0.png", 0).rename(tmp_path / "0.json")
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [(example(0), sample(image))], 2, {})
    examples = ShardedExamples(tmp_path / "shards")
    assert examples[0][0] == example(0) and examples[0][1].size == (24, 24)
