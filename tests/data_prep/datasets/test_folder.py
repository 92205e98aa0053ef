"""Your own images: each layout gives the same data set, and errors name the file and line."""

import importlib.util
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.datasets.folder import read_folder
from data_prep.reading.dataset import PARTS
from data_prep.settings import DataArgs


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pets"


@pytest.fixture
def fill(root, draw_picture):
    """Writes images: ``fill({"cat": 5})`` writes cat/0.png to cat/4.png."""

    def draw(counts: dict[str, int]):
        for class_index, (folder, count) in enumerate(counts.items()):
            for number in range(count):
                draw_picture(root / folder / f"{number}.png", 100 * class_index + number)

    return draw


@pytest.fixture
def read(root, tmp_path):
    return lambda path=None, **settings: read_folder(
        DataArgs(name="folder", root=str(path or root), **settings), tmp_path / "cache", PARTS
    )


@pytest.fixture
def error_message(read):
    def message(path=None, **settings) -> str:
        with pytest.raises(UserError) as caught:
            read(path, **settings)
        return str(caught.value)

    return message


def per_class(dataset, part) -> dict[str, int]:
    return dict(Counter(dataset.names[s.label] for s in dataset.parts[part]))


def table(root, name, rows):
    if name.endswith(".csv"):
        text = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)])
    else:
        text = "\n".join(json.dumps(row) for row in rows)
    (root / name).write_text(text + "\n", encoding="utf-8")


def rows_of(root, label_of=lambda folder: folder) -> list[dict]:
    paths = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    return [{"path": path.as_posix(), "label": label_of(path.parts[0])} for path in paths]


def test_a_folder_per_class_is_divided_by_the_split_ratios(fill, read):
    fill({"cat": 10, "dog": 5})
    dataset = read()
    assert dataset.names == ("cat", "dog")
    assert per_class(dataset, "train") == {"cat": 6, "dog": 3}
    assert per_class(dataset, "val") == {"cat": 2, "dog": 1}
    assert per_class(dataset, "test") == {"cat": 2, "dog": 1}
    assert dataset.parts["train"] == dataset.parts["test_memory"] == dataset.parts["val_memory"]
    paths = [s.path for part in ("train", "val", "test") for s in dataset.parts[part]]
    assert len(paths) == len(set(paths)) == 15
    assert all(s.digest == file_hash(Path(s.path)) for s in dataset.parts["test"])


def test_the_seed_decides_the_split(fill, read):
    fill({"cat": 10, "dog": 10})
    assert read(seed=0).parts == read(seed=0).parts
    assert read(seed=0).parts["test"] != read(seed=1).parts["test"]


def test_named_split_folders_are_kept(fill, read):
    fill({"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 1, "test/cat": 2, "test/dog": 1})
    dataset = read()
    assert per_class(dataset, "train") == {"cat": 3, "dog": 2}
    assert per_class(dataset, "val") == {"cat": 1, "dog": 1}
    assert per_class(dataset, "test") == {"cat": 2, "dog": 1}
    for part, folder in (("train", "train"), ("val", "val"), ("test", "test")):
        assert all(f"/{folder}/" in s.path for s in dataset.parts[part])


def test_without_val_a_share_of_train_serves_as_val(fill, read):
    fill({"train/cat": 8, "train/dog": 3, "test/cat": 2, "test/dog": 2})
    dataset = read()
    assert per_class(dataset, "train") == {"cat": 6, "dog": 2}
    assert per_class(dataset, "val") == {"cat": 2, "dog": 1}
    assert all("/train/" in s.path for s in dataset.parts["val"])
    assert not {s.path for s in dataset.parts["val"]} & {s.path for s in dataset.parts["train"]}
    assert per_class(dataset, "test") == {"cat": 2, "dog": 2}


@pytest.mark.parametrize("name", ["samples.csv", "samples.jsonl"])
def test_a_table_gives_the_same_data_set_as_folders(fill, read, root, name):
    fill({"cat": 6, "dog": 6})
    from_folders = read()
    table(root, name, rows_of(root))
    assert read() == from_folders
    assert read(root / name).parts == from_folders.parts


@pytest.mark.parametrize("name", ["mine.csv", "mine.jsonl"])
def test_a_table_gives_labels_and_splits(fill, read, root, name):
    fill({"a": 4, "b": 4})
    words = {"0": "train", "1": "training", "2": "validation", "3": "test"}
    rows = [row | {"split": words[row["path"][2]]} for row in rows_of(root, {"a": "un écu", "b": "7"}.get)]
    table(root, name, rows)
    dataset = read(root / name)
    assert dataset.names == ("7", "un écu")
    assert [per_class(dataset, part) for part in ("train", "val", "test")] == [
        {"un écu": 2, "7": 2},
        {"un écu": 1, "7": 1},
        {"un écu": 1, "7": 1},
    ]


def test_a_table_may_quote_commas_and_begin_with_a_byte_order_mark(fill, read, root):
    fill({"a": 4})
    lines = [f'a/{n}.png,"or, a bend ""sable"""' for n in range(4)]
    (root / "samples.csv").write_text("\ufeff" + "\n".join(["path,label", *lines]), encoding="utf-8")
    assert read().names == ('or, a bend "sable"',)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("samples.csv", "path,label\ncat/0.png,cat\ncat/1.png\n", "samples.csv, line 3: no label"),
        ("samples.csv", "file,class\ncat/0.png,cat\n", "samples.csv, line 2: no path"),
        ("samples.csv", "path,label\ncat/0.png,cat,dog\n", "samples.csv, line 2: more cells than columns"),
        ("samples.jsonl", '{"path": "cat/0.png", "label": ["cat", "dog"]}\n', "line 1: the class ['cat', 'dog'] is"),
        (
            "samples.jsonl",
            '{"path": ["cat/0.png"], "label": "cat"}\n',
            "line 1: the path ['cat/0.png'] is not a string",
        ),
        ("samples.csv", "path,label,split\ncat/0.png,cat,holdout\n", "samples.csv, line 2: split 'holdout'; use train"),
        ("samples.csv", "path,label,split\ncat/0.png,cat,train\ncat/1.png,cat,\n", "give all or none"),
        ("samples.csv", "path,label,split\ncat/0.png,cat,train\n", "the splits are ['train']; train and test"),
        ("samples.csv", "path,label\ncat/0.png,cat\ncat/0.png,cat\n", "cat/0.png is listed twice"),
        ("samples.csv", "path,label\ncat/9.png,cat\n", "cat/9.png: no such image (1 of 1"),
        ("samples.jsonl", '{"path": "cat/0.png", "label": "cat"}\n{"path": "cat/1.png"}\n', "line 2: no label"),
        ("samples.jsonl", "[1]\n", "line 1: no path"),
        ("samples.jsonl", "{oops\n", "samples.jsonl, line 1: not readable"),
    ],
)
def test_a_malformed_table_raises_with_its_line(fill, error_message, root, name, text, expected):
    fill({"cat": 4})
    (root / name).write_text(text)
    assert expected in error_message()


def test_a_line_that_is_not_json_raises_with_its_number(fill, error_message, root):
    fill({"cat": 4})
    (root / "samples.jsonl").write_text(
        '{"path": "cat/0.png", "label": "cat"}\n{"path": "cat/1.png", "label": "cat"}\n{oops\n'
    )
    assert "line 3" in error_message()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("samples.csv", "path,label\ncat/0.png,cat\n\n\ncat/1.png\n"),
        ("samples.jsonl", '{"path": "cat/0.png", "label": "cat"}\n\n\n\n{"path": "cat/1.png"}\n'),
    ],
)
def test_line_numbers_count_empty_lines(fill, error_message, root, name, text):
    fill({"cat": 4})
    (root / name).write_text(text)
    assert "line 5: no label" in error_message()


@pytest.mark.parametrize(
    ("name", "text"), [("samples.csv", "path,label\n"), ("samples.csv", ""), ("samples.jsonl", "")]
)
def test_an_empty_table_raises_an_error(fill, error_message, root, name, text):
    fill({"cat": 4})
    (root / name).write_text(text)
    message = error_message()
    assert name in message
    assert "no images" in message


def test_a_missing_empty_or_unsuitable_root_raises_an_error(tmp_path, error_message, root):
    assert f"data.root={tmp_path / 'gone'}: no such folder" in error_message(tmp_path / "gone")
    root.mkdir()
    assert "no images; it needs a folder per class, or samples.csv or samples.jsonl" in error_message()
    (tmp_path / "notes.pdf").write_text("")
    assert "a file must be .csv or .jsonl" in error_message(tmp_path / "notes.pdf")
    (tmp_path / "names.txt").write_text("owl")
    assert "a list of names without images; give a table" in error_message(tmp_path / "names.txt")
    (root / "names").mkdir()
    (root / "names" / "manifest.json").write_text("{}")
    assert "a kept memory, which has vectors and no images" in error_message()
    with pytest.raises(UserError, match=r"data\.name=folder needs data\.root=PATH"):
        read_folder(DataArgs(name="folder"), tmp_path, PARTS)


def test_a_class_with_one_image_raises_or_is_skipped_and_counted(fill, read, error_message):
    fill({"cat": 5, "dog": 1, "hen": 4})
    assert (
        "1 of 3 classes have fewer than 4 images: dog (1); add images, or set data.on_small_class=skip"
        in error_message()
    )
    dataset = read(on_small_class="skip")
    assert dataset.skipped["small class"] == 1
    for part in PARTS:
        assert set(per_class(dataset, part)) == {"cat", "hen"}


def test_a_class_without_training_images_raises_or_is_skipped_and_counted(fill, read, error_message):
    fill({"train/cat": 3, "test/cat": 1, "train/dog": 1, "test/dog": 2, "test/hen": 2})
    assert "2 of 3 classes have fewer than 3 training images: dog (1), hen (0)" in error_message()
    dataset = read(on_small_class="skip")
    assert dataset.skipped["small class"] == 5
    assert per_class(dataset, "test") == {"cat": 1}


def test_an_unreadable_image_raises_or_is_skipped_and_counted(fill, read, error_message, root):
    fill({"cat": 6, "dog": 5})
    intact = (root / "cat" / "1.png").read_bytes()
    for number, data in ((1, intact[: len(intact) // 2]), (2, b"not an image")):
        (root / "cat" / f"{number}.png").write_bytes(data)
    assert f"{root / 'cat' / '1.png'}: not readable as an image: truncated (2 of 11 are not)" in error_message(
        on_error="raise"
    )
    dataset = read()
    assert dataset.skipped["unreadable"] == 2
    assert sum(len(dataset.parts[part]) for part in ("train", "val", "test")) == 9


def test_other_files_and_hidden_folders_are_not_images(fill, read, root):
    fill({"cat": 4, ".thumbnails": 4})
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "README.md").write_text("no class")
    assert read().names == ("cat",)


def test_skipped_classes_do_not_shift_labels(fill, read):
    fill({"ant": 1, "cat": 4, "dog": 4})
    dataset = read(on_small_class="skip")
    assert all(f"/{dataset.names[s.label]}/" in s.path for part in PARTS for s in dataset.parts[part])


def test_every_part_gets_its_minimum_of_images_for_any_split_ratios(fill, read):
    """At least two in train, so that leave-one-out search finds another one, and one each in val and test."""
    fill({"cat": 4, "dog": 6})
    for ratios in ([0.2, 0.4, 0.4], [0.02, 0.96, 0.02]):
        dataset = read(split_ratios=ratios)
        assert all(per_class(dataset, "train").get(name, 0) >= 2 for name in dataset.names)
        assert all(per_class(dataset, part).get(name) for name in dataset.names for part in ("val", "test"))


@pytest.mark.parametrize(
    "folders",
    [
        {"Train/cat": 4, "Train/dog": 4, "Test/cat": 4, "Test/dog": 4},
        {"train/cat": 4, "train/dog": 4, "test/cat": 4, "test/dog": 4, "extra": 4},
    ],
)
def test_split_folders_are_not_mistaken_for_classes(fill, read, folders):
    fill(folders)
    try:
        names = read().names
    except UserError:
        return
    assert names == ("cat", "dog")


def test_skipping_every_class_is_an_error(fill, error_message):
    fill({"cat": 1, "dog": 2})
    assert "data.on_small_class" in error_message(on_small_class="skip")


def test_label_column_selects_the_class_column_of_a_table(fill, read, root):
    fill({"cat": 4, "dog": 4})
    table(root, "samples.csv", [{"path": row["path"], "breed": row["label"]} for row in rows_of(root)])
    assert read(label_column="breed").names == ("cat", "dog")


def test_a_table_written_on_windows_gives_the_same_data_set_as_folders(fill, read, root):
    fill({"cat": 5, "dog": 5})
    from_folders = read()
    table(root, "samples.csv", [row | {"path": ".\\" + row["path"].replace("/", "\\")} for row in rows_of(root)])
    assert read() == from_folders


def test_a_class_without_a_readable_image_is_reported(fill, read, error_message, root, caplog):
    fill({"cat": 4, "dog": 4})
    (root / "empty").mkdir()
    (root / "texts").mkdir()
    (root / "texts" / "0.txt").write_text("not an image")
    (root / "phone").mkdir()
    for number in range(4):
        (root / "phone" / f"{number}.heic").write_bytes(b"\0\0\0 ftypheic" + bytes(20))
    assert "3 of 5 classes have fewer than 4 images: empty (0), phone (0), texts (0)" in error_message()
    dataset = read(on_small_class="skip")
    assert "skipped 3 classes with fewer than 4 images: empty (0), phone (0), texts (0)" in caplog.text
    assert dataset.skipped["unreadable"] == 4
    assert dataset.skipped["passed over"] == 1


def test_images_of_any_suffix_and_below_links_are_read(fill, read, root, tmp_path):
    fill({"cat": 4, "../store/dog": 4})
    for path in (root / "cat").iterdir():
        path.rename(path.with_suffix(".jfif"))
    (root / "dog").symlink_to(tmp_path / "store" / "dog")
    assert Counter(s.label for part in ("train", "val", "test") for s in read().parts[part]) == {0: 4, 1: 4}


def test_nested_folders_are_classes_by_a_rule_that_is_logged(fill, read, root, caplog):
    caplog.set_level("INFO", "data_prep")
    counts = {"train/Felis/catus": 3, "train/Felis/chaus": 3, "train/Lynx/lynx": 3}
    fill(counts | {"test/Felis/catus": 1, "test/Lynx/lynx": 1})  # at once: a second call draws the same pictures
    dataset = read()
    assert dataset.names == ("Felis/catus", "Felis/chaus", "Lynx/lynx")
    assert per_class(dataset, "test") == {"Felis/catus": 1, "Lynx/lynx": 1}
    rule = f"{root}: the 3 folders that hold images are the classes, such as Felis/catus"
    assert rule in caplog.text and "data: read 11 images (11 .png) of 3 classes" in caplog.text
    assert read(class_folders="top").names == ("Felis", "Lynx")
    assert "belong to the class of the folder at the top: those in Felis/catus are Felis;" in caplog.text
    (root / "train" / "Lynx" / "rufus").mkdir()
    assert read().skipped["passed over"] == 1 and "1 empty folder" in caplog.text


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs pillow-heif")
def test_photographs_of_phones_are_read_and_counted_by_suffix(fill, read, root, caplog):
    import pillow_heif

    caplog.set_level("INFO", "data_prep")
    fill({"cat": 4, "dog": 4})
    for number, path in enumerate(sorted(root.rglob("[12].png"))):
        with Image.open(path) as image:
            pillow_heif.from_pillow(image.convert("RGB")).save(path.with_suffix((".HEIC", ".heif")[number % 2]))
        path.unlink()
    assert read().skipped["unreadable"] == 0
    assert "data: read 8 images (4 .png, 2 .heic, 2 .heif) of 2 classes" in caplog.text


def test_names_that_look_the_same_are_one_class_with_a_warning(fill, read, caplog):
    fill({"Kücken": 2, "Ku\u0308cken": 2, "Kücken\u200b": 1, "Kücken\u00a0": 1, "owl": 4})
    dataset = read()
    assert dataset.names == ("Kücken", "owl")
    assert len([s for part in ("train", "val", "test") for s in dataset.parts[part] if s.label == 0]) == 6
    assert "1 class names are spelled in several ways that look the same, such as 'Ku\\u0308cken'" in caplog.text


def test_a_class_without_test_images_is_reported(fill, read, caplog):
    fill({"train/cat": 3, "test/cat": 1, "train/dog": 3})
    read()
    assert "1 classes have no test images: dog" in caplog.text


def test_pipes_and_broken_links_are_left_out_and_counted(fill, read, error_message, root):
    fill({"cat": 5, "dog": 5})
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "cat" / "gone.png").symlink_to("nowhere")
    assert read().skipped["unreadable"] == 2
    assert f"{root / 'cat' / 'gone.png'}: not readable as an image: broken link (2 of 12" in error_message(
        on_error="raise"
    )


def test_a_data_set_is_named_after_its_folder_for_any_working_directory(fill, read, root, monkeypatch):
    fill({"cat": 4, "dog": 4})
    (root.parent / "photos.v2").symlink_to(root)
    for working_directory, path in ((root, "."), (root / "cat", ".."), (root, "../pets/.")):
        monkeypatch.chdir(working_directory)
        assert read(path).name == "pets"
    assert read(root.parent / "photos.v2").name == "photos.v2"


def test_a_split_folder_inside_a_folder_of_the_same_name_raises_an_error(tmp_path, draw_picture, error_message):
    for seed, split in enumerate(("train", "test")):
        draw_picture(tmp_path / "data" / split / split / "cat" / "0.png", seed)
    assert "test/test: a split's folder alone in a split's folder" in error_message(tmp_path / "data")
