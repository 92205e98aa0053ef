"""Hugging Face's imagefolder: classes from metadata, splits from folders."""

import json

import pytest


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pets"


@pytest.fixture
def make(root, draw_picture):
    """Writes ``{"train": 4}`` images per class in each split's folder, named by number; returns rows by split."""

    def write_images(counts, column="label"):
        rows = {}
        for index, (split, count) in enumerate(counts.items()):
            names = [f"{index}{n}.png" for n in range(2 * count)]
            for n, name in enumerate(names):
                draw_picture(root / split / name, 100 * index + n)
            rows[split] = [{"file_name": name, column: ("cat", "big dog")[n % 2]} for n, name in enumerate(names)]
        return rows

    return write_images


def write(path, rows):
    if path.suffix == ".csv":
        text = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)])
    else:
        text = "\n".join(json.dumps(row) for row in rows)
    path.write_text(text + "\n")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_in_each_splits_folder_is_read(make, read_named, root, name):
    for split, rows in make({"train": 3, "validation": 1, "test": 2}, "breed").items():
        write(root / split / name, rows)
    dataset = read_named("imagefolder", root, label_column="breed")
    assert dataset.name == "pets"
    assert dataset.names == ("big dog", "cat")
    assert {p: len(dataset.parts[p]) for p in ("train", "val", "test")} == {
        "train": 6,
        "val": 2,
        "test": 4,
    }
    for part, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        for sample in dataset.parts[part]:
            assert f"/{split}/" in sample.path
            assert dataset.names[sample.label] == ("cat", "big dog")[int(sample.path[-5]) % 2]


def test_one_metadata_file_at_the_top_is_read(make, read_named, root):
    rows = make({"train": 3, "test": 1})
    flat = [row | {"file_name": f"{split}/{row['file_name']}"} for split, items in rows.items() for row in items]
    write(root / "metadata.csv", flat)
    dataset = read_named("imagefolder", root)
    assert [len(dataset.parts[part]) for part in ("test_memory", "test")] == [4, 2]


def test_metadata_without_splits_is_divided_by_split_ratios(make, read_named, root):
    write(root / "metadata.jsonl", make({"": 5})[""])
    dataset = read_named("imagefolder", root)
    assert [len(dataset.parts[part]) for part in ("train", "val", "test")] == [6, 2, 2]


def test_without_metadata_folders_are_classes(root, draw_picture, read_named):
    for n in range(8):
        draw_picture(root / ("cat", "dog")[n % 2] / f"{n}.png", n)
    assert read_named("imagefolder", root) == read_named("folder", root)


def test_images_without_metadata_are_counted(make, read_named, root, caplog):
    rows = make({"": 5})[""]
    write(root / "metadata.csv", rows[:-1])
    assert read_named("imagefolder", root).skipped["unlisted"] == 1
    assert f"1 images are in no metadata file and left out, such as {rows[-1]['file_name']}" in caplog.text


def test_malformed_metadata_raises_with_its_path_and_line(make, error_message, root, tmp_path):
    assert f"data.root={tmp_path / 'gone'}" in error_message("imagefolder", tmp_path / "gone")
    rows = make({"": 5})[""]
    write(root / "metadata.csv", rows)
    message = error_message("imagefolder", root, label_column="species")
    assert "metadata.csv, line 2: no species (columns: file_name, label); data.label_column says" in message
    write(root / "metadata.csv", [{"file_name": "99.png", "label": "cat"}, *rows])
    assert "99.png: no such image (1 of 11" in error_message("imagefolder", root)
    write(root / "metadata.csv", [{"file_name": "../x.png", "label": "cat"}, *rows])
    assert "metadata.csv, line 2: ../x.png is outside" in error_message("imagefolder", root)


def test_metadata_written_on_windows_or_below_links_is_read(make, read_named, root, tmp_path):
    rows = make({"train/pictures": 3, "test/pictures": 1})
    for split in ("train", "test"):
        windows_rows = [row | {"file_name": f".\\pictures\\{row['file_name']}"} for row in rows[f"{split}/pictures"]]
        write(root / split / "metadata.csv", windows_rows)
    expected = read_named("imagefolder", root)
    assert [len(expected.parts[part]) for part in ("test_memory", "test")] == [4, 2]
    (root / "test").rename(tmp_path / "store")
    (root / "test").symlink_to(tmp_path / "store")
    assert read_named("imagefolder", root) == expected


def test_metadata_in_a_folder_of_unclear_use_raises_an_error(make, error_message, root):
    for split, rows in make({"train": 3, "eval": 2}).items():
        write(root / split / "metadata.csv", rows)
    assert "which split is the folder eval? Rename it" in error_message("imagefolder", root)
