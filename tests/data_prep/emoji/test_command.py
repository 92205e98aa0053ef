"""The command that renders packages of art into images on disk."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.emoji.__main__ import make_emoji
from data_prep.emoji.packages import ART
from tests.damage import contents, damage
from tests.tiny_emoji import made_place


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return made_place(tmp_path_factory.mktemp("emoji"))


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "pictures.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_listed_image_exists_in_the_requested_size_on_white(root):
    listed = rows(root / "data")
    assert {row["family"] for row in listed} == set(ART.values())
    for row in listed:
        image = Image.open(root / "data" / row["path"]).convert("RGB")
        assert image.size == (32, 32)
        assert image.getpixel((31, 31)) == (255, 255, 255)


def test_a_class_has_the_same_hue_in_all_families(root):
    hues = {}
    for row in rows(root / "data"):
        image = Image.open(root / "data" / row["path"]).convert("HSV")
        hues.setdefault(row["code"], set()).add(image.getpixel((12, 12))[0] // 3)
    assert all(max(values) - min(values) <= 1 for values in hues.values()), "a drawing has the wrong class"


def test_blank_drawings_are_left_out_and_counted(root):
    metadata = make_emoji(root / "data", 32, root / "npm")
    assert metadata["left_out"] == {"blank": 1}
    assert not [row for row in rows(root / "data") if row["path"] == "noto-v1/1f350.png"]


def test_the_licences_of_the_art_are_written_to_the_folder(root):
    text = (root / "data" / "LICENSES.md").read_text()
    assert all(f"Licence {number}" in text and package in text for number, package in enumerate(ART))


def test_existing_output_is_reused_and_a_folder_of_other_files_raises_an_error(root, tmp_path):
    before = (root / "data" / "pictures.csv").stat().st_mtime_ns
    make_emoji(root / "data", 32, tmp_path / "nowhere")
    assert (root / "data" / "pictures.csv").stat().st_mtime_ns == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that are not"):
        make_emoji(other, 32, root / "npm")


@pytest.mark.parametrize("file", ["noto-v1/1f434.png", "pictures.csv", "contents.json", "manifest.json"])
@pytest.mark.parametrize("kind", ["flipped", "removed"])
def test_damaged_data_is_rendered_again_with_the_same_bytes(root, tmp_path, caplog, file, kind):
    folder = shutil.copytree(root / "data", tmp_path / "data")
    damage(folder / file, kind)
    make_emoji(folder, 32, root / "npm")
    assert f"{folder / file}: " in caplog.text and "rendering all images again" in caplog.text
    assert contents(folder) == contents(root / "data")
