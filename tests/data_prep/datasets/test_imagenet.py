"""ImageNet: folders of classes named by ``classnames.txt``; development is held out of train, test draws from all."""

import pytest

from data_prep.datasets.imagenet import SOURCE

FOLDERS = {"n01440764": "tench", "n02002724": "black stork"}


@pytest.fixture
def make(tmp_path, draw_picture):
    def made(images="imagenet/images", names="imagenet"):
        root = tmp_path / "data"
        for number, (split, count) in enumerate((("train", 8), ("val", 2))):
            for place, folder in enumerate(FOLDERS):
                for image in range(count):
                    path = root / images / split / folder / f"{split}_{image}.JPEG"
                    draw_picture(path, 1000 * number + 100 * place + image)
        text = "".join(f"{folder} {name}\n" for folder, name in FOLDERS.items())
        (root / names / "classnames.txt").write_text(text + "n03000000 not here\n")
        return root

    return made


@pytest.mark.parametrize(("images", "names"), [("imagenet/images", "imagenet"), ("imagenet", "imagenet"), ("", "")])
def test_both_layouts_are_read(make, read_named, images, names):
    dataset = read_named("imagenet", make(images, names))
    assert dataset.names == ("tench", "black stork")
    assert dataset.templates == ("a photo of a {}.",)
    assert [len(dataset.parts[part]) for part in ("test_memory", "test")] == [16, 4]
    assert all("/val/" in s.path for s in dataset.parts["test"])


def test_development_is_held_out_of_what_it_is_compared_with(make, read_named):
    dataset = read_named("imagenet", make())
    kept, held, whole = (dataset.parts[part] for part in ("val_memory", "val", "test_memory"))
    assert [sum(s.label == label for s in held) for label in (0, 1)] == [2, 2]
    assert not {s.path for s in kept} & {s.path for s in held}
    assert {s.path for s in kept} | {s.path for s in held} == {s.path for s in whole}
    assert dataset.parts["train"] == kept


def test_what_is_wrong_is_named(make, refusal, read_named, tmp_path):
    root = make()
    (root / "imagenet/images/val/n01440764").rename(root / "imagenet/images/val/n09999999")
    message = refusal("imagenet", root)
    assert "val: its class folders differ from train's, first in n01440764" in message
    assert SOURCE in message
    (root / "imagenet/images/val/n09999999").rename(root / "imagenet/images/val/n01440764")
    for path in (root / "imagenet/images/train/n02002724").iterdir():
        path.unlink()
    assert "1 of 2 classes of imagenet have no training images: black stork" in refusal("imagenet", root)
    listed = root / "imagenet/classnames.txt"
    listed.write_text("n01440764 tench\n")
    assert "n02002724: classnames.txt has no such class" in refusal("imagenet", root)
    listed.unlink()
    assert f"{listed}: no such file" in refusal("imagenet", root)
    assert str(tmp_path / "gone" / "imagenet/images" / "train") in refusal("imagenet", tmp_path / "gone")
