"""What lies below a folder: which entries are classes, which files are pictures, and what is passed over."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint
from data_prep.reading.dataset import list_left_out

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".heic", ".heif", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".mpo", ".tga", ".dds", ".pcx", ".qoi", ".sgi", ".psd", ".ico", ".icns"),
}
"""Of files that claim to be pictures. One that cannot be shown (HEIC, where no decoder is installed) is counted."""

RESIDUE = "hidden or left by a system"
NO_PICTURE = "no picture"
_USUAL = (RESIDUE, NO_PICTURE)

# Of macOS, Windows, Synology, QNAP, ext4 and tar. Hidden files and folders besides.
_RESIDUE = re.compile(
    r"\..*|__macosx|icon\r|thumbs\.db|ehthumbs.*\.db|desktop\.ini|\$recycle\.bin|system volume information|lost\+found"
    r"|@eadir|@tmp|#recycle|#snapshot|@recycle|@recently-snapshot|network trash folder|temporary items|__pycache__"
    r"|recycler|paxheaders?(?:\.\d+)?",
    re.IGNORECASE | re.DOTALL,
)
# Of editors, exiftool and browsers; a folder may be called so and be a class.
_RESIDUE_FILE = re.compile(r".*(?:~|_original|\.bak|\.orig|\.tmp|\.part|\.crdownload|\.swp)", re.IGNORECASE | re.DOTALL)
_HEAD = 32
# Formats whose first bytes leave no doubt. A TIFF must have its suffix: raw files of cameras begin alike.
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|....ftyp(?:avif|avis|heic|heix|mif1|msf1)"
    rb"|\0\0\0\x0cjP  \r\n|\0\0\0\x0cJXL \r\n",
    re.DOTALL,
)


@dataclass
class Findings:
    """What lies below a folder.

    Attributes:
        files: The files that were asked for, in alphabetical order.
        passed: The other entries, each with the reason why it was passed over.
    """

    files: list[Path] = field(default_factory=list)
    passed: list[tuple[Path, str]] = field(default_factory=list)


def file_mode(path: Path) -> int:
    """What a path is, through links; 0 where that cannot be known."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def is_residue(name: str, folder: bool = False) -> bool:
    """Whether a file or folder is hidden, or left by a system or a program, by its name."""
    return any(pattern.fullmatch(name) for pattern in (_RESIDUE, *[_RESIDUE_FILE] * (not folder)))


def is_picture(path: Path) -> bool:
    """Whether a file claims to be a picture: by its suffix, or where that says nothing, by its first bytes."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    if not stat.S_ISREG(file_mode(path)):  # opening a pipe would wait for ever
        return False
    try:
        with open(path, "rb") as file:
            return _SIGNATURES.match(file.read(_HEAD)) is not None
    except OSError:
        return False


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _walk(folder: Path) -> Findings:
    """All files below a folder, also through links; each folder is entered once, and none above it."""
    top = Path(os.path.realpath(folder))
    seen = {str(top), *map(str, top.parents)}
    found, waiting = Findings(), [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as opened:
                entries = list(opened)
        except OSError as error:
            found.passed.append((place, f"folder not readable ({error.strerror})"))
            continue
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = place / entry.name
            if is_residue(entry.name, folder := _is_folder(entry)):
                found.passed.append((path, RESIDUE))
            elif not folder:
                found.files.append(path)
            elif (real := os.path.realpath(path)) in seen:
                found.passed.append((path, "folder that was read already, or lies above"))
            else:
                seen.add(real)
                waiting.append(path)
    return found


def find_pictures(folder: Path) -> Findings:
    """Finds the pictures below a folder; what claims to be one and is broken is among them."""
    found = _walk(folder)
    chosen = {path: is_picture(path) for path in sorted(found.files)}
    others = [(path, NO_PICTURE) for path, picture in chosen.items() if not picture]
    return Findings([path for path, picture in chosen.items() if picture], found.passed + others)


def find_files(folder: Path, suffix: str) -> Findings:
    """Finds the regular files below a folder that have a suffix; other entries are not listed as passed over."""
    found = _walk(folder)
    named = sorted(path for path in found.files if path.suffix == suffix)
    regular = [path for path in named if stat.S_ISREG(file_mode(path))]
    return Findings(regular, [(path, f"{suffix} that is no file") for path in named if path not in set(regular)])


def class_folders(root: Path) -> Findings:
    """Finds the folders at the top of a data set that can be classes or splits; links to folders are among them.

    Raises:
        UserError: The folder cannot be read.
    """
    top = Path(os.path.realpath(root))
    above = {str(top), *map(str, top.parents)}
    found = Findings()
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise UserError(f"{root}: not readable as a folder ({error.strerror})") from None
    for path in entries:
        folder = stat.S_ISDIR(file_mode(path))
        if is_residue(path.name, folder):
            found.passed.append((path, RESIDUE))
        elif not folder:
            broken = path.is_symlink() and not file_mode(path)
            reason = "broken link" if broken else "picture outside of a class" if is_picture(path) else NO_PICTURE
            found.passed.append((path, reason))
        elif os.path.realpath(path) in above:
            found.passed.append((path, "link to a folder above"))
        else:
            found.files.append(path)
    return found


def report_passed(passed: Iterable[tuple[Path, str]], cache: Path) -> int:
    """Counts in the log what was passed over, and lists it in the cache, in ``passed-over-*.jsonl``.

    Returns:
        int: How many entries.
    """
    passed = list(passed)
    if passed:
        kept = cache / f"passed-over-{fingerprint([[ascii(str(path)), reason] for path, reason in passed])}.jsonl"
        counts = list_left_out(passed, kept)
        odd = [f"{str(path)!a}: {reason}" for path, reason in passed if reason not in _USUAL]
        said = f"data: passed over {len(passed)} files and folders ({counts}), listed in {kept}"
        log.log(logging.WARNING if odd else logging.INFO, "%s", "; ".join([said, *odd[:3]]))
    return len(passed)
