"""ImageNet: class folders named in ``classnames.txt``; val is held out of train, test's memory is all of train."""

import pytest

from data_prep.datasets.imagenet import SOURCE

FOLDERS = {"n01440764": "tench", "n02002724": "black stork"}


@pytest.fixture
def make(tmp_path, draw_picture):
    def write(images="imagenet/images", names="imagenet"):
        root = tmp_path / "data"
        for number, (split, count) in enumerate((("train", 8), ("val", 2))):
            for label, folder in enumerate(FOLDERS):
                for image in range(count):
                    path = root / images / split / folder / f"{split}_{image}.JPEG"
                    draw_picture(path, 1000 * number + 100 * label + image)
        text = "".join(f"{folder} {name}\n" for folder, name in FOLDERS.items())
        (root / names / "classnames.txt").write_text(text + "n03000000 not here\n")
        return root

    return write


@pytest.mark.parametrize(("images", "names"), [("imagenet/images", "imagenet"), ("imagenet", "imagenet"), ("", "")])
def test_both_layouts_are_read(make, read_named, images, names):
    dataset = read_named("imagenet", make(images, names))
    assert dataset.names == ("tench", "black stork")
    assert dataset.templates == ("a photo of a {}.",)
    assert [len(dataset.parts[part]) for part in ("test_memory", "test")] == [16, 4]
    assert all("/val/" in s.path for s in dataset.parts["test"])


def test_val_images_are_held_out_of_train_and_of_their_memory(make, read_named):
    dataset = read_named("imagenet", make())
    val_memory, val, test_memory = (dataset.parts[part] for part in ("val_memory", "val", "test_memory"))
    assert [sum(s.label == label for s in val) for label in (0, 1)] == [2, 2]
    assert not {s.path for s in val_memory} & {s.path for s in val}
    assert {s.path for s in val_memory} | {s.path for s in val} == {s.path for s in test_memory}
    assert dataset.parts["train"] == val_memory


def test_missing_folders_and_class_names_raise_with_their_path(make, error_message, read_named, tmp_path):
    root = make()
    (root / "imagenet/images/val/n01440764").rename(root / "imagenet/images/val/n09999999")
    message = error_message("imagenet", root)
    assert "val: its class folders differ from train's, first in n01440764" in message
    assert SOURCE in message
    (root / "imagenet/images/val/n09999999").rename(root / "imagenet/images/val/n01440764")
    for path in (root / "imagenet/images/train/n02002724").iterdir():
        path.unlink()
    assert "1 of 2 classes of imagenet have no training images: black stork" in error_message("imagenet", root)
    class_file = root / "imagenet/classnames.txt"
    class_file.write_text("n01440764 tench\n")
    assert "n02002724: classnames.txt has no such class" in error_message("imagenet", root)
    class_file.unlink()
    assert f"{class_file}: no such file" in error_message("imagenet", root)
    assert str(tmp_path / "gone" / "imagenet/images" / "train") in error_message("imagenet", tmp_path / "gone")
