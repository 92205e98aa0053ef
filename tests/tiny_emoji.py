"""Writes small packages of emoji art in npm's format, with a few drawings each."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from data_prep.emoji.__main__ import make_emoji
from data_prep.emoji.packages import ART, METADATA

CLASSES = [
    ("1F434", "horse face", "animals-nature", "animal-mammal", ""),
    ("1F997", "cricket", "animals-nature", "animal-bug", ""),
    ("1F34E", "red apple", "food-drink", "food-fruit", ""),
    ("1F350", "pear", "food-drink", "food-fruit", ""),
    ("1F1EB-1F1F7", "flag: France", "flags", "country-flag", ""),
    ("2764-FE0F", "red heart", "smileys-emotion", "heart", ""),
    ("1F44B", "waving hand", "people-body", "hand-fingers-open", ""),
    ("1F44B-1F3FF", "waving hand: dark skin tone", "people-body", "hand-fingers-open", "5"),
    ("1F3FF", "dark skin tone", "component", "skin-tone", ""),
    ("E001", "company sign", "extras-openmoji", "brand", ""),
]
# Names of drawings, and their aliases. The game of cricket is not the insect.
BY_CHARACTER = ["horse-face", "cricket", "red-apple", "pear", "flag-france", "red-heart", "waving-hand"]
BY_NAME = ["horse-face", "cricket-game", "apple", "pear", "flag-for-flag-france", "heavy-black-heart", "waving-hand"]
ALIASES = {"cricket": "cricket-game", "red-apple": "apple"}
CODES = ["1f434", "1f997", "1f34e", "1f350", "1f1eb-1f1f7", "2764", "1f44b"]


def _pack(path: Path, files: dict[str, object]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, value in files.items():
            data = json.dumps(value).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _tarball(folder: Path, package: str) -> Path:
    name, _, version = package.rpartition("@")
    return folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"


def write_packages(folder: Path) -> Path:
    """Writes all packages; a class has one colour in all families, and each family its own shade and shape."""
    keys = ("hexcode", "annotation", "group", "subgroups", "skintone")
    listed = [dict(zip(keys, row, strict=True), tags=f"{row[1].split()[-1]}, thing") for row in CLASSES]
    _pack(_tarball(folder, METADATA), {"data/openmoji.json": listed})
    for number, package in enumerate(ART):
        by_character = number % 2 == 0
        icons = {}
        for index, name in enumerate(BY_CHARACTER if by_character else BY_NAME):
            colour = f"hsl({index * 51}, {100 - 6 * number}%, 45%)"
            icons[name] = {"body": f'<rect x="{number % 4}" width="12" height="{9 + number}" fill="{colour}"/>'}
        icons["pear"]["body"] = '<rect width="16" height="16" fill="#fff"/>' if number == 1 else icons["pear"]["body"]
        chars = dict(zip(CODES, BY_CHARACTER, strict=True)) if by_character else {}
        aliases = {} if by_character else {alias: {"parent": name} for alias, name in ALIASES.items()}
        info = {"name": f"Set {number}", "author": {"name": "An Artist", "url": "a.example"}}
        info["license"] = {"title": f"Licence {number}", "url": "l.example"}
        icons_file = {"icons": icons, "aliases": aliases, "width": 16, "height": 16 + number}
        _pack(_tarball(folder, package), {"icons.json": icons_file, "chars.json": chars, "info.json": info})
    return folder


def made_place(folder: Path) -> Path:
    """Writes the packages into ``npm`` of a folder and renders them into its ``data``; returns the folder."""
    (folder / "npm").mkdir()
    write_packages(folder / "npm")
    make_emoji(folder / "data", 32, folder / "npm")
    return folder
