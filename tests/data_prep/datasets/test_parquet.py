"""Parquet files as on the Hugging Face Hub: encoded images, and class indices of a ClassLabel."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.core.files import file_hash


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pets"


@pytest.fixture
def make(root, tmp_path, draw_picture):
    """Writes ``{"data/train-00000-of-00001.parquet": 3}``: three images of each of two classes."""

    def write(counts, labels=(0, 1), names=("cat", "big dog"), column="label", image="image"):
        hashes = set()
        for index, (name, count) in enumerate(counts.items()):
            files = [draw_picture(tmp_path / "images" / f"{index}-{n}.png", 100 * index + n) for n in range(2 * count)]
            hashes |= {file_hash(file) for file in files}
            cells = [{"bytes": file.read_bytes(), "path": file.name if index else None} for file in files]
            table = pyarrow.table({image: cells, column: [labels[n % 2] for n in range(2 * count)]})
            if names:
                features = {image: {"_type": "Image"}, column: {"names": list(names), "_type": "ClassLabel"}}
                metadata = json.dumps({"info": {"features": features}})
                table = table.replace_schema_metadata({"huggingface": metadata})
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(table, root / name)
        return hashes

    return write


SPLITS = {"data/train-00000-of-00001.parquet": 4, "data/test-00000-of-00001.parquet": 2}


def test_class_labels_and_splits_are_read(make, read_named, root):
    hashes = make(SPLITS)
    dataset = read_named("parquet", root)
    assert dataset.name == "pets"
    assert dataset.names == ("big dog", "cat")
    assert [len(dataset.parts[part]) for part in ("test_memory", "val", "test")] == [6, 2, 4]
    assert {s.digest for part in ("train", "val", "test") for s in dataset.parts[part]} == hashes


def test_a_column_of_names_without_metadata_is_read(make, read_named, root):
    make({"all.parquet": 5}, ("un écu", "7"), None, "fine_label", "picture")
    dataset = read_named("parquet", root, label_column="fine_label")
    assert dataset.names == ("7", "un écu")
    assert [len(dataset.parts[part]) for part in ("train", "val", "test")] == [6, 2, 2]


def test_malformed_files_raise_with_their_path_and_row(make, error_message, root):
    assert "needs a folder that holds .parquet files" in error_message("parquet", root)
    make({"all.parquet": 5}, column="species")
    assert "no column label (columns: image, species); set data.label_column" in error_message("parquet", root)
    make({"all.parquet": 5}, labels=(0, 2))
    assert "all.parquet, row 1: class 2 is not in its ClassLabel, which names 2" in error_message("parquet", root)
    pyarrow.parquet.write_table(pyarrow.table({"url": ["a"], "label": [0]}), root / "all.parquet")
    assert "needs one column of images (records with bytes), but has url, label" in error_message("parquet", root)
    (root / "all.parquet").write_bytes(b"PAR1 damaged PAR1")
    assert "all.parquet: not readable as parquet" in error_message("parquet", root)


@pytest.mark.parametrize("twin", ["crane", "crane ", "cra\u200bne"])
def test_classes_that_share_a_name_remain_distinct(make, read_named, root, twin):
    make({"all.parquet": 5}, names=("crane", twin))
    dataset = read_named("parquet", root)
    assert dataset.names == ("crane", "crane (2)")
    assert len(dataset.labels("train")) == 2


def test_labels_that_are_lists_raise_an_error(make, error_message, root):
    make({"all.parquet": 5}, labels=(["cat"], ["cat", "dog"]), names=None)
    assert "all.parquet, row 0: the class ['cat'] is neither a string nor a number" in error_message("parquet", root)


@pytest.mark.parametrize(
    "metadata",
    [b"{oops", b"[" * 100_000, b"[1]", b'{"info": 3}', b'{"info": {"features": []}}',
     b'{"info": {"features": {"label": {"names": 3}}}}'],
)  # fmt: skip
def test_damaged_metadata_raises_with_the_file(make, error_message, root, metadata):
    make({"all.parquet": 2}, names=None)
    table = pyarrow.parquet.read_table(root / "all.parquet").replace_schema_metadata({b"huggingface": metadata})
    pyarrow.parquet.write_table(table, root / "all.parquet")
    assert str(root / "all.parquet") in error_message("parquet", root)


def test_a_path_that_looks_like_a_uri_is_read_as_a_path(make, read_named, root, tmp_path, monkeypatch):
    make({"all.parquet": 5})
    root.rename(tmp_path / "s3:pets")
    monkeypatch.chdir(tmp_path)
    assert read_named("parquet", "s3:pets").name == "s3:pets"
