"""From packages of art to pictures on disk."""

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
def place(tmp_path_factory) -> Path:
    return made_place(tmp_path_factory.mktemp("emoji"))


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "pictures.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_listed_picture_is_there_in_the_size_asked_for_on_white(place):
    found = rows(place / "data")
    assert {row["family"] for row in found} == set(ART.values())
    for row in found:
        image = Image.open(place / "data" / row["path"]).convert("RGB")
        assert image.size == (32, 32)
        assert image.getpixel((31, 31)) == (255, 255, 255)


def test_classes_are_coloured_alike_in_all_families(place):
    hues = {}
    for row in rows(place / "data"):
        image = Image.open(place / "data" / row["path"]).convert("HSV")
        hues.setdefault(row["code"], set()).add(image.getpixel((12, 12))[0] // 3)
    assert all(max(found) - min(found) <= 1 for found in hues.values()), "a drawing stands under another's name"


def test_blank_drawings_and_those_of_few_families_are_left_out_and_counted(place):
    metadata = make_emoji(place / "data", 32, place / "npm")
    assert metadata["left_out"] == {"blank": 1}
    assert not [row for row in rows(place / "data") if row["path"] == "noto-v1/1f350.png"]


def test_the_arts_licences_stand_beside_it(place):
    text = (place / "data" / "LICENSES.md").read_text()
    assert all(f"Licence {number}" in text and package in text for number, package in enumerate(ART))


def test_what_is_there_is_reused_and_another_size_made_anew(place, tmp_path):
    before = (place / "data" / "pictures.csv").stat().st_mtime_ns
    make_emoji(place / "data", 32, tmp_path / "nowhere")
    assert (place / "data" / "pictures.csv").stat().st_mtime_ns == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that are not"):
        make_emoji(other, 32, place / "npm")


@pytest.mark.parametrize("file", ["noto-v1/1f434.png", "pictures.csv", "contents.json", "manifest.json"])
@pytest.mark.parametrize("kind", ["flipped", "removed"])
def test_damaged_data_are_not_reused_but_made_again_alike(place, tmp_path, caplog, file, kind):
    folder = shutil.copytree(place / "data", tmp_path / "data")
    damage(folder / file, kind)
    make_emoji(folder, 32, place / "npm")
    assert f"{folder / file}: " in caplog.text and "all is made again" in caplog.text
    assert contents(folder) == contents(place / "data")
