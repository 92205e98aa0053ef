"""Copies of a picture stay in one part, where this tool divides; contradictory labels are named and left out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from data_prep.core.errors import UserError
from data_prep.datasets.folder import read_folder
from data_prep.reading.dataset import PARTS
from data_prep.reading.duplicates import find_near_equal
from data_prep.settings import DataArgs

VARIANTS = {
    "smaller": lambda image: image.resize((150, 113)),
    "recompressed": lambda image: image,
    "cropped": lambda image: image.crop((6, 2, 313, 236)),
}


def draw_scene(seed: int) -> Image.Image:
    """A picture with coarse and fine structure, like a photograph."""
    rng, scene = np.random.default_rng(seed), np.zeros((240, 320, 3))
    for cells, weight in ((3, 1.0), (8, 0.5), (40, 0.2)):
        noise = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        scene += weight * np.asarray(Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC))
    return Image.fromarray((scene / 1.7).astype(np.uint8))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "photos"
    for index, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(10):
            draw_scene(100 * index + number).save(root / name / f"{number}.jpg", quality=90)
    return root


@pytest.fixture
def read(root, tmp_path):
    return lambda **settings: read_folder(
        DataArgs(name="folder", root=str(root), **settings), tmp_path / "cache", PARTS
    )


def part_of(dataset) -> dict[str, str]:
    """The part of each picture, by its path below the root."""
    return {
        "/".join(Path(sample.path).parts[-2:]): part
        for part in ("train", "val", "test")
        for sample in dataset.parts[part]
    }


def test_copies_of_any_kind_stay_in_one_part(root, read, tmp_path, caplog):
    caplog.set_level("INFO", "data_prep")
    read()
    assert "images are copies" not in caplog.text
    for number in range(0, 10, 2):
        for kind, change in VARIANTS.items():
            change(draw_scene(number)).save(root / "cat" / f"{number}-{kind}.jpg", quality=40)
    shutil.copy(root / "cat" / "1.jpg", root / "cat" / "1-again.jpg")
    after = part_of(read())
    for number in range(0, 10, 2):
        assert len({after[f"cat/{number}{kind}.jpg"] for kind in ("", *(f"-{kind}" for kind in VARIANTS))}) == 1
    assert after["cat/1.jpg"] == after["cat/1-again.jpg"]
    assert set(after.values()) == {"train", "val", "test"}
    assert part_of(read()) == after
    found = "22 images are copies, in 6 groups (1 of equal bytes, 5 resized, recompressed or cropped)"
    assert caplog.text.count(found) == 1, "logged by each reading of a command"
    (listing,) = (tmp_path / "cache").glob("copies-*.jsonl")
    groups = [json.loads(line) for line in listing.read_text().splitlines()]
    assert {(group["class"], len(group["paths"])) for group in groups} == {("cat", 4), ("cat", 2)}


def test_pictures_without_content_are_no_copies_of_each_other(root, read, caplog):
    caplog.set_level("INFO", "data_prep")
    for number in range(8):
        Image.new("RGB", (64, 64), (200, 200, 200 + number)).save(root / "cat" / f"flat-{number}.png")
    assert len(part_of(read())) == 28
    assert "images are copies" not in caplog.text


def test_scans_of_handwriting_that_differ_little_are_no_copies():
    digits = load_digits()
    for label in (0, 3, 8):
        scans = [
            Image.fromarray((255 - 15.9 * scan).astype(np.uint8)) for scan in digits.images[digits.target == label]
        ]
        small = [np.asarray(scan.convert("RGB").resize((12, 12), Image.Resampling.BOX)) for scan in scans]
        assert len(find_near_equal(np.stack(small))) <= 4  # of about 15,000 pairs, in both directions


def test_a_class_of_three_pictures_in_several_sizes_is_still_divided(root, read, caplog):
    (root / "bird").mkdir()
    for number in range(6):
        draw_scene(7 + number // 2).resize((200 + number, 150)).save(root / "bird" / f"{number}.png")
    parts = part_of(read())
    assert {parts[f"bird/{number}.png"] for number in range(6)} == {"train", "val", "test"}
    assert "1 classes show nearly the same in all images" in caplog.text


def test_copies_of_three_images_do_not_make_a_class_large_enough(root, read):
    for number in range(3, 10):
        shutil.copy(root / "cat" / f"{number % 3}.jpg", root / "cat" / f"{number}.jpg")
    with pytest.raises(UserError, match=r"1 of 2 classes have fewer than 4 different images: cat \(3\)"):
        read()
    assert read(on_small_class="skip").skipped["small class"] == 10


def test_the_val_share_of_a_given_train_split_keeps_copies_together(root, tmp_path):
    for number in range(8):
        shutil.copy(root / "cat" / f"{number // 2}.jpg", root / "cat" / f"{number // 2}-again.jpg")
    divided = tmp_path / "divided"
    shutil.copytree(root, divided / "train")
    shutil.copytree(root, divided / "test")
    for path in (divided / "test").rglob("*.jpg"):
        draw_scene(1000 + int(path.stem[0]) + 10 * (path.parent.name == "dog") + 20 * ("again" in path.stem)).save(path)
    dataset = read_folder(DataArgs(name="folder", root=str(divided)), tmp_path / "cache", PARTS)
    assert not {s.digest for s in dataset.parts["train"]} & {s.digest for s in dataset.parts["val"]}


def test_an_image_in_two_classes_is_named_and_left_out(root, read, tmp_path, caplog):
    shutil.copy(root / "cat" / "3.jpg", root / "dog" / "wrong.jpg")
    dataset = read()
    assert dataset.skipped["in several classes"] == 2
    assert not {"cat/3.jpg", "dog/wrong.jpg"} & part_of(dataset).keys()
    assert len(part_of(dataset)) == 19
    assert "1 image is in several classes, byte for byte, such as" in caplog.text
    assert f"{root / 'cat' / '3.jpg'} (cat) and {root / 'dog' / 'wrong.jpg'} (dog)" in caplog.text
    (listing,) = (tmp_path / "cache").glob("contradictory-*.jsonl")
    assert len(listing.read_text().splitlines()) == 2
    with pytest.raises(UserError, match=r"wrong\.jpg \(dog\); keep each in one class, or set data\.on_error=skip"):
        read(on_error="raise")


def test_groups_in_the_cache_are_used_again_and_damaged_ones_are_named(root, read, tmp_path):
    VARIANTS["smaller"](draw_scene(2)).save(root / "cat" / "again.jpg")
    before = part_of(read())
    (file,) = (tmp_path / "cache").glob("near-equal-*.json")
    written = file.stat().st_mtime_ns
    assert part_of(read()) == before and file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes().replace(b"a", b"b"))
    with pytest.raises(UserError, match=r"near-equal-.*damaged.*delete it"):
        read()
    file.unlink()
    assert part_of(read()) == before


def draw_station(view: int, seed: int) -> Image.Image:
    """A picture by a fixed camera: one background, and a few small things that differ."""
    background = np.random.default_rng(view).integers(0, 256, (6, 6, 3), np.uint8)
    picture = Image.fromarray(background).resize((200, 200), Image.Resampling.BICUBIC)
    rng, draw = np.random.default_rng(5000 + seed), ImageDraw.Draw(picture)
    for _ in range(4):
        x, y, width, height = (*rng.integers(20, 150, 2), *rng.integers(12, 30, 2))
        draw.ellipse((x, y, x + width, y + height), fill=tuple(int(value) for value in rng.integers(0, 255, 3)))
    return picture


def test_pictures_of_fixed_cameras_are_no_copies_but_copies_among_them_are_found():
    pictures = [draw_station(seed % 4, seed) for seed in range(160)]
    pictures.append(pictures[8].resize((90, 90)))
    small = [np.asarray(picture.resize((12, 12), Image.Resampling.BOX)) for picture in pictures]
    pairs = {tuple(sorted(pair)) for pair in find_near_equal(np.stack(small))}
    assert pairs == {(8, 160)}
