"""The packages of emoji art, and which of their drawings shows which class.

Classes are Unicode's emoji as the ``openmoji`` package lists them, with its names and groups; skin tones and components
are left out. Some packages say which character a drawing shows, some only name their drawings: by the character's
present name, by an earlier one, or by Unicode's own.
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
"""Design family by package. The two Fluent packages hold the same designs, in relief and flat."""
COLUMNS = ("path", "code", "name", "group", "subgroup", "family")
"""Of ``pictures.csv``, which lists what was rendered."""
_LEFT_OUT = ("component", "extras-openmoji", "extras-unicode")


@dataclass(frozen=True)
class Emoji:
    """A class.

    Attributes:
        code: Its characters in hexadecimal, such as ``1f434`` or ``2764-200d-1f525``.
        name: Its name in Unicode's common locale data, such as ``horse face``.
        group: Such as ``animals-nature``.
        subgroup: Such as ``animal-mammal``.
    """

    code: str
    name: str
    group: str
    subgroup: str


@dataclass(frozen=True)
class Art:
    """A package's drawings.

    Attributes:
        package: Name and version.
        svgs: An SVG by class code.
        licence: Title, address and authors, in a line.
    """

    package: str
    svgs: dict[str, str]
    licence: str


def tarball(package: str, folder: Path) -> Path:
    """A package's file as ``npm pack`` names it, fetched where the folder lacks it.

    Args:
        package: Name and version.
        folder: Where packages are kept; on a machine without npm, put them there by hand.

    Raises:
        UserError: There is no npm, or it cannot have the package.
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
    done = subprocess.run(["npm", "pack", "--silent", package], cwd=folder, capture_output=True, text=True)
    if done.returncode or not path.exists():
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise UserError(f"npm pack {package}: failed ({said[-1]}); is npm's registry reachable from this machine?")
    return path


def _member(path: Path, name: str) -> Any:
    try:
        with tarfile.open(path) as archive:
            return json.load(archive.extractfile(f"package/{name}"))
    except (tarfile.TarError, EOFError, KeyError, OSError, ValueError) as error:
        raise UserError(f"{path}: {name} cannot be read ({error}); delete the file to have it fetched again") from None


def emoji_code(characters: str) -> str:
    """A class's code from any package's: lower case, without the marks that only ask for a coloured picture."""
    return "-".join(c.lstrip("0") for c in characters.lower().split("-") if c != "fe0f")


def read_classes(path: Path) -> list[Emoji]:
    """The classes that the metadata package lists, in Unicode's order."""
    kept = {}
    for entry in _member(path, "data/openmoji.json"):
        if entry["group"] not in _LEFT_OUT and not entry["skintone"]:
            code = emoji_code(entry["hexcode"])
            kept.setdefault(code, Emoji(code, entry["annotation"], entry["group"], entry["subgroups"]))
    return list(kept.values())


def _squashed(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.replace("&", "and"))
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def codes_by_name(classes: list[Emoji]) -> dict[str, str]:
    """The code of every name of the classes, squashed to letters and digits; a present name wins over older ones."""
    codes: dict[str, str] = {}
    for emoji in classes:
        codes.setdefault(_squashed(emoji.name), emoji.code)
    for emoji in classes:
        place = emoji.name.removeprefix("flag: ")
        older = [f"flag for {place}", f"flag for flag {place}"] if place != emoji.name else []
        if "-" not in emoji.code:
            older.append(unicodedata.name(chr(int(emoji.code, 16)), ""))
        for name in filter(None, older):
            codes.setdefault(_squashed(name), emoji.code)
    return codes


def _svg(icon: dict, pack: dict) -> str:
    """A drawing as a square SVG, centred where it is not square."""
    left, top, width, height = (
        icon.get(key, pack.get(key, value)) for key, value in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{box}" width="{side}" height="{side}">{icon["body"]}</svg>'


def read_art(package: str, path: Path, classes: list[Emoji], codes: dict[str, str]) -> Art:
    """A package's drawings of the classes: by character where it says which, else by name.

    A drawing shows one class; an older name of it is not taken for another. Mirrored drawings are left out.

    Args:
        package: Name and version.
        path: Its file.
        classes: The classes.
        codes: What ``codes_by_name`` gave, and names that packages with characters added; it is added to.
    """
    pack, info = _member(path, "icons.json"), _member(path, "info.json")
    icons, known = pack["icons"], {emoji.code for emoji in classes}
    by_code = {emoji_code(characters): name for characters, name in _member(path, "chars.json").items()}
    found = {code: name for code, name in by_code.items() if code in known and name in icons}
    aliases = defaultdict(list)
    for alias, target in pack.get("aliases", {}).items():
        if target.keys() == {"parent"}:
            aliases[target["parent"]].append(alias)
    for code, name in found.items():
        for other in (name, *aliases[name]):
            codes.setdefault(_squashed(other), code)
    taken = set(found.values())
    for other in (False, True):  # first by the drawings' names, then by their further names
        for name in icons:
            for said in aliases[name] if other else [name]:
                code = codes.get(_squashed(said))
                if code is not None and code not in found and name not in taken:
                    found[code] = name
                    taken.add(name)
    licence, author = info["license"], info["author"]
    line = f"{info['name']}, by {author['name']} ({author['url']}): {licence['title']} ({licence['url']})"
    return Art(package, {code: _svg(icons[name], pack) for code, name in found.items()}, line)
