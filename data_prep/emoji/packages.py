"""Packages of emoji art: fetches them, and matches their drawings to classes.

Classes are Unicode's emoji as the ``openmoji`` package lists them, with its names and groups; skin tones and components
are left out. Some packages list the character of each drawing, others only name their drawings: by the character's
current name, by an earlier one, or by Unicode's own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError

METADATA = "openmoji@17.0.0"
ART = {
    "@iconify-json/noto@1.2.9": "noto",
    "@iconify-json/noto-v1@1.2.5": "noto-v1",
    "@iconify-json/twemoji@1.2.5": "twemoji",
    "@iconify-json/openmoji@1.2.29": "openmoji",
    "@iconify-json/fluent-emoji@1.2.7": "fluent",
    "@iconify-json/fluent-emoji-flat@1.2.6": "fluent",
    "@iconify-json/emojione@1.2.3": "emojione",
    "@iconify-json/emojione-v1@1.2.3": "emojione-v1",
    "@iconify-json/fxemoji@1.2.2": "fxemoji",
}
"""Design family by package. The two Fluent packages have the same designs, in relief and flat."""
COLUMNS = ("path", "code", "name", "group", "subgroup", "family", "keywords")
"""Columns of ``pictures.csv``, which lists the rendered images."""
_EXCLUDED_GROUPS = ("component", "extras-openmoji", "extras-unicode")


@dataclass(frozen=True)
class Emoji:
    """A class of emoji.

    Attributes:
        code: Its code points in hexadecimal, such as ``1f434`` or ``2764-200d-1f525``.
        name: Its name in Unicode's common locale data, such as ``horse face``.
        group: Its group, such as ``animals-nature``.
        subgroup: Its subgroup, such as ``animal-mammal``.
        keywords: Its keywords in Unicode's common locale data, such as ``animal, face, horse``.
    """

    code: str
    name: str
    group: str
    subgroup: str
    keywords: str


@dataclass(frozen=True)
class Art:
    """The drawings of a package.

    Attributes:
        package: Name and version.
        svgs: SVG source by class code.
        licence: Title, URL and authors, in one line.
    """

    package: str
    svgs: dict[str, str]
    licence: str


def tarball(package: str, folder: Path) -> Path:
    """Returns the path of a package's file, named as by ``npm pack``; fetches it if the folder lacks it.

    Args:
        package: Name and version.
        folder: Folder of packages; on a machine without npm, put them there by hand.

    Raises:
        UserError: npm is not installed, or it cannot fetch the package.
    """
    name, _, version = package.rpartition("@")
    path = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if path.exists():
        return path
    if shutil.which("npm") is None:
        raise UserError(
            f"{package}: npm is needed to fetch it, and this machine has none; install Node.js with npm (Debian: "
            f"apt-get install npm), or put {path.name} into {folder} yourself"
        )
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.run(["npm", "pack", "--silent", package], cwd=folder, capture_output=True, text=True)
    if process.returncode or not path.exists():
        output = (process.stderr.strip() or process.stdout.strip() or "no reason given").splitlines()
        raise UserError(f"npm pack {package}: failed ({output[-1]}); is npm's registry reachable from this machine?")
    return path


def _read_member(path: Path, name: str) -> Any:
    try:
        with tarfile.open(path) as archive:
            return json.load(archive.extractfile(f"package/{name}"))
    except (tarfile.TarError, EOFError, KeyError, OSError, ValueError) as error:
        raise UserError(f"{path}: {name} cannot be read ({error}); delete the file to have it fetched again") from None


def emoji_code(characters: str) -> str:
    """Normalises a class code: lower case, without leading zeros and the variation selector of coloured display."""
    return "-".join(c.lstrip("0") for c in characters.lower().split("-") if c != "fe0f")


def read_classes(path: Path) -> list[Emoji]:
    """Reads the classes that the metadata package lists, in Unicode's order."""
    classes = {}
    for entry in _read_member(path, "data/openmoji.json"):
        if entry["group"] not in _EXCLUDED_GROUPS and not entry["skintone"]:
            code = emoji_code(entry["hexcode"])
            emoji = Emoji(code, entry["annotation"], entry["group"], entry["subgroups"], entry["tags"])
            classes.setdefault(code, emoji)
    return list(classes.values())


def _normalise_name(name: str) -> str:
    """Reduces a name to its lower-case ASCII letters and digits."""
    decomposed = unicodedata.normalize("NFKD", name.replace("&", "and"))
    return re.sub(r"[^a-z0-9]", "", decomposed.lower())


def codes_by_name(classes: list[Emoji]) -> dict[str, str]:
    """Returns the class code by normalised name; a current name has precedence over older ones."""
    codes: dict[str, str] = {}
    for emoji in classes:
        codes.setdefault(_normalise_name(emoji.name), emoji.code)
    for emoji in classes:
        country = emoji.name.removeprefix("flag: ")
        older_names = [f"flag for {country}", f"flag for flag {country}"] if country != emoji.name else []
        if "-" not in emoji.code:
            older_names.append(unicodedata.name(chr(int(emoji.code, 16)), ""))
        for name in filter(None, older_names):
            codes.setdefault(_normalise_name(name), emoji.code)
    return codes


def _make_svg(icon: dict, pack: dict) -> str:
    """Returns a drawing as a square SVG, centred if the drawing is not square."""
    left, top, width, height = (
        icon.get(key, pack.get(key, value)) for key, value in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {namespaces} viewBox="{box}" width="{side}" height="{side}">{icon["body"]}</svg>'


def read_art(package: str, path: Path, classes: list[Emoji], codes: dict[str, str]) -> Art:
    """Reads a package's drawings of the classes, matched by character if the package lists them, else by name.

    A drawing is matched to one class; its older names are not matched to another. Mirrored drawings are left out.

    Args:
        package: Name and version.
        path: The package's file.
        classes: The classes.
        codes: Class code by name, from ``codes_by_name`` and from packages read before; names of a package that lists
            characters are added to it.
    """
    pack, info = _read_member(path, "icons.json"), _read_member(path, "info.json")
    icons, known = pack["icons"], {emoji.code for emoji in classes}
    by_code = {emoji_code(characters): name for characters, name in _read_member(path, "chars.json").items()}
    matches = {code: name for code, name in by_code.items() if code in known and name in icons}
    aliases = defaultdict(list)
    for alias, target in pack.get("aliases", {}).items():
        if target.keys() == {"parent"}:
            aliases[target["parent"]].append(alias)
    for code, name in matches.items():
        for alias in (name, *aliases[name]):
            codes.setdefault(_normalise_name(alias), code)
    matched = set(matches.values())
    for use_aliases in (False, True):  # first by the drawings' names, then by their aliases
        for name in icons:
            for candidate in aliases[name] if use_aliases else [name]:
                code = codes.get(_normalise_name(candidate))
                if code is not None and code not in matches and name not in matched:
                    matches[code] = name
                    matched.add(name)
    licence, author = info["license"], info["author"]
    line = f"{info['name']}, by {author['name']} ({author['url']}): {licence['title']} ({licence['url']})"
    return Art(package, {code: _make_svg(icons[name], pack) for code, name in matches.items()}, line)
