"""File discovery: which folders are classes, which files are images, and what is passed over."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint
from data_prep.reading.dataset import count_reasons, list_left_out, log_once

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".heic", ".heif", ".hif", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".avifs", ".mpo", ".tga", ".dds", ".pcx", ".qoi", ".sgi", ".psd", ".ico", ".icns"),
}
"""Suffixes of image files. One that cannot be decoded (HEIC, where no decoder is installed) is counted as such."""

HIDDEN_OR_SYSTEM = "hidden or a system file"
NOT_AN_IMAGE = "not an image"
EMPTY_FOLDER = "empty folder"
_EXPECTED_REASONS = (HIDDEN_OR_SYSTEM, NOT_AN_IMAGE, EMPTY_FOLDER)

# Names used by macOS, Windows, Synology, QNAP, ext4 and tar, and hidden files and folders.
_SYSTEM_NAME = re.compile(
    r"\..*|__macosx|icon\r|thumbs\.db|ehthumbs.*\.db|desktop\.ini|\$recycle\.bin|system volume information|lost\+found"
    r"|@eadir|@tmp|#recycle|#snapshot|@recycle|@recently-snapshot|network trash folder|temporary items|__pycache__"
    r"|recycler|paxheaders?(?:\.\d+)?",
    re.IGNORECASE | re.DOTALL,
)
# Files of editors, exiftool and browsers; a folder with such a name may be a class.
_PROGRAM_FILE = re.compile(r".*(?:~|_original|\.bak|\.orig|\.tmp|\.part|\.crdownload|\.swp)", re.IGNORECASE | re.DOTALL)
_HEAD = 32
# Formats with an unambiguous signature. A TIFF must have its suffix: cameras' raw files have the same signature.
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|....ftyp(?:avif|avis|heic|heix|mif1|msf1)"
    rb"|\0\0\0\x0cjP  \r\n|\0\0\0\x0cJXL \r\n",
    re.DOTALL,
)


@dataclass
class Findings:
    """The result of a search below a folder.

    Attributes:
        files: The matching files or folders, in alphabetical order.
        passed: The entries that were passed over, each with the reason.
    """

    files: list[Path] = field(default_factory=list)
    passed: list[tuple[Path, str]] = field(default_factory=list)


def file_mode(path: Path) -> int:
    """Returns a path's mode, following links; 0 if it cannot be read."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def is_hidden_or_system_file(name: str, folder: bool = False) -> bool:
    """Returns whether a file or folder is hidden or was left by an operating system or a program, by its name."""
    return any(pattern.fullmatch(name) for pattern in (_SYSTEM_NAME, *[_PROGRAM_FILE] * (not folder)))


def is_image_file(path: Path) -> bool:
    """Returns whether a file claims to be an image: by its suffix, or else by its first bytes."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    if not stat.S_ISREG(file_mode(path)):  # opening a pipe would block forever
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


def walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yields all files below a folder, following links; enters each folder once, and none above the top.

    Names of one folder at a time are held, in alphabetical order; the folders in it come after its files.

    Yields:
        tuple[Path, str]: A path, and why it was passed over; the reason is empty for a file.
    """
    top = Path(os.path.realpath(folder))
    seen = {str(top), *map(str, top.parents)}
    pending = [folder]
    while pending:
        current, folders = pending.pop(), []
        try:
            with os.scandir(current) as scan:
                entries = sorted((entry.name, _is_folder(entry)) for entry in scan)
        except OSError as error:
            yield current, f"folder not readable ({error.strerror})"
            continue
        if not entries and current != folder:
            yield current, EMPTY_FOLDER
        for name, is_folder in entries:
            path = current / name
            if is_hidden_or_system_file(name, is_folder):
                yield path, HIDDEN_OR_SYSTEM
            elif not is_folder:
                yield path, ""
            elif (real := os.path.realpath(path)) in seen:
                yield path, "link to a folder already read or above"
            else:
                seen.add(real)
                folders.append(path)
        pending += reversed(folders)


def _walk(folder: Path) -> Findings:
    """Finds all files below a folder; see ``walk``."""
    findings = Findings()
    for path, reason in walk(folder):
        if reason:
            findings.passed.append((path, reason))
        else:
            findings.files.append(path)
    return findings


def find_images(folder: Path) -> Findings:
    """Finds the image files below a folder, those that are broken included."""
    findings = _walk(folder)
    image_flags = {path: is_image_file(path) for path in sorted(findings.files)}
    others = [(path, NOT_AN_IMAGE) for path, is_image in image_flags.items() if not is_image]
    return Findings([path for path, is_image in image_flags.items() if is_image], findings.passed + others)


def find_files(folder: Path, suffix: str) -> Findings:
    """Finds the regular files below a folder that have a suffix; entries without it are not listed as passed over."""
    matches = sorted(path for path in _walk(folder).files if path.suffix == suffix)
    regular = [path for path in matches if stat.S_ISREG(file_mode(path))]
    irregular = [path for path in matches if path not in set(regular)]
    return Findings(regular, [(path, f"{suffix} that is not a regular file") for path in irregular])


def class_folders(root: Path) -> Findings:
    """Finds the folders at the top of a data set that can be classes or splits, including links to folders.

    Raises:
        UserError: The folder cannot be read.
    """
    top = Path(os.path.realpath(root))
    above = {str(top), *map(str, top.parents)}
    findings = Findings()
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise UserError(f"{root}: not readable as a folder ({error.strerror})") from None
    for path in entries:
        is_folder = stat.S_ISDIR(file_mode(path))
        if is_hidden_or_system_file(path.name, is_folder):
            findings.passed.append((path, HIDDEN_OR_SYSTEM))
        elif not is_folder:
            broken = path.is_symlink() and not file_mode(path)
            reason = "broken link" if broken else "image outside of a class" if is_image_file(path) else NOT_AN_IMAGE
            findings.passed.append((path, reason))
        elif os.path.realpath(path) in above:
            findings.passed.append((path, "link to a folder above"))
        else:
            findings.files.append(path)
    return findings


def report_skipped(passed: Iterable[tuple[Path, str]], cache: Path) -> int:
    """Logs counts of the entries passed over, once, and lists them in the cache, in ``passed-over-*.jsonl``.

    Returns:
        int: Number of entries.
    """
    passed = list(passed)
    if passed:
        listing = cache / f"passed-over-{fingerprint([[ascii(str(path)), reason] for path, reason in passed])}.jsonl"
        list_left_out(passed, listing)
        counts = count_reasons(passed)
        unexpected = [f"{str(path)!a}: {reason}" for path, reason in passed if reason not in _EXPECTED_REASONS]
        entries = "1 file or folder" if len(passed) == 1 else f"{len(passed):,} files and folders"
        message = f"data: passed over {entries} ({counts}), listed in {listing}"
        log_once(log, logging.WARNING if unexpected else logging.INFO, "; ".join([message, *unexpected[:3]]))
    return len(passed)
