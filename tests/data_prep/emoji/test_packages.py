"""Matching of drawings to classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.emoji.packages import ART, METADATA, codes_by_name, emoji_code, read_art, read_classes, tarball
from tests.tiny_emoji import CODES, write_packages


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return write_packages(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module")
def classes(packages: Path):
    return read_classes(tarball(METADATA, packages))


def test_skin_tones_components_and_extras_are_not_classes(classes):
    assert [emoji.code for emoji in classes] == CODES


def test_spellings_of_a_code_are_normalised():
    assert emoji_code("2764-FE0F-200D-1F525") == emoji_code("2764-200d-1f525") == "2764-200d-1f525"
    assert emoji_code("0023-FE0F-20E3") == emoji_code("23-20e3")


def test_drawings_are_matched_by_character_name_older_name_and_unicode_name(packages, classes):
    for package in list(ART)[:2]:
        art = read_art(package, tarball(package, packages), classes, codes_by_name(classes))
        assert {"1f434", "1f34e", "1f1eb-1f1f7", "2764"} <= art.svgs.keys()
        assert art.licence.endswith("(l.example)")


def test_an_alias_is_not_matched_to_a_class_if_the_drawings_name_belongs_to_another(packages, classes):
    package = list(ART)[1]  # only names its drawings, and the game of cricket has the alias cricket
    codes = codes_by_name(classes) | {"cricketgame": "1f3cf"}
    art = read_art(package, tarball(package, packages), classes, codes)
    assert "1f997" not in art.svgs


def test_without_npm_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"apt-get install npm\), or put openmoji-.*\.tgz into"):
        tarball(METADATA, tmp_path / "npm")


def test_a_damaged_package_raises_with_its_path(tmp_path):
    path = tmp_path / "openmoji-17.0.0.tgz"
    path.write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"openmoji-17\.0\.0\.tgz: data/openmoji\.json cannot be read"):
        read_classes(tarball(METADATA, tmp_path))
