"""WebDataset shards: classes by index or name, splits by the shards' names, images byte for byte."""

import io
import json
import logging
import shutil
import tarfile

import pytest
from webdataset import TarWriter

from data_prep.core.files import file_hash


@pytest.fixture
def root(tmp_path):
    return tmp_path / "shields"


@pytest.fixture
def make(root, tmp_path, draw_picture):
    """Writes shards ``{"train/0.tar": 3}``: three images of each of two classes, with the fields ``label`` returns."""

    def write(counts, label=lambda number: {"cls": number}):
        hashes = set()
        for index, (shard, count) in enumerate(counts.items()):
            (root / shard).parent.mkdir(parents=True, exist_ok=True)
            with TarWriter(str(root / shard)) as writer:
                for n in range(2 * count):
                    image = draw_picture(tmp_path / "images" / f"{index}-{n}.png", 100 * index + n)
                    hashes.add(file_hash(image))
                    writer.write({"__key__": f"s{n:04d}", "png": image.read_bytes(), **label(n % 2)})
        return hashes

    return write


def test_the_layout_of_clip_benchmark_is_read(make, read_named, root):
    hashes = make({"train/0.tar": 3, "train/1.tar": 2, "test/0.tar": 2})
    (root / "classnames.txt").write_text("or, a bend\nazure, a fess\n")
    (root / "zeroshot_classification_templates.txt").write_text("a shield of {c}.\n{c}\n")
    dataset = read_named("webdataset", root)
    assert dataset.name == "shields"
    assert dataset.names == ("azure, a fess", "or, a bend")
    assert dataset.templates == ("a shield of {}.", "{}")
    assert [len(dataset.parts[part]) for part in ("test_memory", "test")] == [8, 4]
    assert {s.digest for part in ("train", "val", "test") for s in dataset.parts[part]} == hashes


def test_splits_in_shard_names_and_classes_in_json_are_read(make, read_named, root):
    counts = {"train-000.tar": 3, "val-000.tar": 1, "test-000.tar": 1}
    make(counts, lambda n: {"json": json.dumps({"breed": ("cat", "dog")[n]}).encode()})
    dataset = read_named("webdataset", root, label_column="breed")
    assert dataset.names == ("cat", "dog")
    assert [len(dataset.parts[part]) for part in ("train", "val", "test")] == [6, 2, 2]


def test_shards_are_unpacked_once_and_again_after_a_change(make, read_named, root, caplog):
    caplog.set_level(logging.INFO, "data_prep")
    make({"0.tar": 5})
    first = read_named("webdataset", root)
    assert first.names == ("0", "1")
    assert [len(first.parts[part]) for part in ("train", "val", "test")] == [6, 2, 2]
    assert read_named("webdataset", root) == first
    assert caplog.text.count("unpacking 1 archives") == 1
    make({"0.tar": 6})
    assert len(read_named("webdataset", root).parts["train"]) == 8


def test_malformed_shards_raise_with_their_path_and_sample(make, error_message, root):
    assert "needs a folder that holds .tar shards" in error_message("webdataset", root)
    make({"0.tar": 4}, lambda n: {})
    assert "0.tar, s0000: no class; it needs .cls, or .json with label" in error_message("webdataset", root)
    make({"0.tar": 4}, lambda n: {"json": b"{}", "jpg": b"two"})
    assert "0.tar, s0000: should hold one image, but has" in error_message("webdataset", root)
    make({"0.tar": 4}, lambda n: {"cls": 2 + n})
    (root / "classnames.txt").write_text("a\nb\n")
    assert "class 2 is neither in classnames.txt nor a number below 2" in error_message("webdataset", root)
    make({"0.tar": 4})
    intact = (root / "0.tar").read_bytes()
    (root / "0.tar").write_bytes(intact[: len(intact) // 3 + 100])
    assert "0.tar: not readable as a shard" in error_message("webdataset", root)
    (root / "0.tar").write_bytes(b"no shard" * 200)
    assert "0.tar: not readable as a shard" in error_message("webdataset", root)


def test_an_unreadable_image_raises_an_error(make, error_message, root):
    make({"0.tar": 5})
    make({"1.tar": 1}, lambda n: {"cls": n, "png": b"not an image"})
    assert "(2 of 12 are not)" in error_message("webdataset", root)


def test_a_shards_name_is_never_read_as_a_url_or_command(make, read_named, error_message, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shard = tmp_path / "pipe:touch ran;.tar"
    shard.touch()
    assert "pipe:touch ran;.tar: not readable as a shard" in error_message("webdataset", ".")
    assert not (tmp_path / "ran").exists()
    shard.unlink()
    make({"all.tar": 5})
    root.rename(tmp_path / "birds:v2")
    assert read_named("webdataset", "birds:v2").name == "birds:v2"


def test_classes_that_share_a_name_remain_distinct(make, read_named, error_message, root):
    make({"all.tar": 5})
    (root / "classnames.txt").write_text("\ufeffcrane\ncrane\n", encoding="utf-8")
    dataset = read_named("webdataset", root)
    assert dataset.names == ("crane", "crane (2)")
    assert [len(dataset.labels(part)) for part in ("train", "test")] == [2, 2]
    make({"all.tar": 5}, lambda n: {"cls": "crane"})
    assert "class crane can be several classes of classnames.txt; number the classes" in error_message(
        "webdataset", root
    )
    (root / "classnames.txt").write_text("crane\n\nheron\n")
    assert "classnames.txt, line 2: is empty" in error_message("webdataset", root)
    (root / "classnames.txt").write_text("1\n0\n")
    make({"all.tar": 4})
    assert "class 0 can be several classes of classnames.txt" in error_message("webdataset", root)


def test_a_label_that_is_a_list_and_a_name_with_a_dot_raise_an_error(make, error_message, root):
    make({"0.tar": 4}, lambda n: {"json": json.dumps({"label": ["cat", "dog"]}).encode()})
    assert "0.tar, s0000: the class ['cat', 'dog'] is neither a string nor a number" in error_message(
        "webdataset", root
    )
    make({"0.tar": 4}, lambda n: {"json": b"[" * 100_000})
    assert "0.tar, s0000: its .json is not readable" in error_message("webdataset", root)
    with TarWriter(str(root / "0.tar")) as writer:
        writer.write({"__key__": "track 2", "0.jpg": b"picture", "0.cls": "cat"})
    assert "a sample's name must have no dot" in error_message("webdataset", root)


def test_files_that_macos_adds_to_a_shard_are_passed_over(make, read_named, root, caplog):
    caplog.set_level(logging.INFO, "data_prep")
    make({"all.tar": 5})
    with tarfile.open(root / "all.tar", "a") as tar:
        for name in ("__MACOSX/._s0000.png", "._s0000.png", "README"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert sum(len(read_named("webdataset", root).parts[part]) for part in ("train", "val", "test")) == 10
    assert "passed over 3 files and folders (2 hidden or a system file: 2 .png; 1 not an image)" in caplog.text


def test_an_altered_or_missing_unpacked_file_raises_with_its_path(make, read_named, error_message, root, tmp_path):
    make({"all.tar": 5})
    first = read_named("webdataset", root)
    (folder,) = (tmp_path / "cache").glob("unpacked-*")
    image = folder / "000000" / "000000003.png"
    for damage in (lambda: image.write_bytes(b"not an image"), image.unlink):
        damage()
        assert f"{image}: " in error_message("webdataset", root)
        assert f"delete {folder}" in error_message("webdataset", root)
    shutil.rmtree(folder)
    assert read_named("webdataset", root) == first
