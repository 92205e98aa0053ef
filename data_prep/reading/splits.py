"""Recognises splits by the names of folders, archives and table cells."""

from __future__ import annotations

import re
from itertools import combinations, zip_longest
from pathlib import Path

from data_prep.core.errors import UserError

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
UNCLEAR = "unclear"
"""The result for a name of a split of unclear use: ``eval`` may be for model selection or for final evaluation."""

_UNCLEAR_WORDS = ["eval", "evaluation", "holdout", "heldout", "trainval", "minival", "devtest"]
_FILLERS = "(?:data|set|sets|images?|imgs?|pictures?|photos?|splits?|folder)*"
_WORDS = "|".join([*SPLIT_WORDS, *_UNCLEAR_WORDS])
_NAME = re.compile(f"{_FILLERS}({_WORDS}){_FILLERS}")
_PART = re.compile("[A-Z]?[a-z]+|[A-Z]+")  # a word within a name, also in camel case
_BEGINNING = re.compile("train|test|val|eval|dev|holdout")


def split_by_name(name: str) -> str:
    """Returns the split that a folder's name denotes, in any spelling.

    ``Training``, ``train_set``, ``TestData`` and ``val2017`` are names of splits.

    Returns:
        str: ``train``, ``val``, ``test``, ``UNCLEAR``, or empty for any other name.
    """
    match = _NAME.fullmatch("".join(letter for letter in name.casefold() if letter.isalpha()))
    return SPLIT_WORDS.get(match.group(1), UNCLEAR) if match else ""


def split_of_archive(archive: Path, root: Path) -> str:
    """Returns the split in an archive's name (``train-0001.tar``, ``birds-test-0.tar``) or folder (``train/0.tar``).

    Returns:
        str: ``train``, ``val``, ``test``, or empty.

    Raises:
        UserError: The name denotes a split of unclear use.
    """
    for part in reversed(archive.relative_to(root).parts):
        kinds = [split_by_name(word) for word in re.split(r"[^a-z]+", part.casefold())]
        if split := next((kind for kind in kinds if kind), ""):
            if split == UNCLEAR:
                raise UserError(f"{archive}: which split is {part}? Begin its name with train, val or test")
            return split
    return ""


def may_hold_split(name: str) -> bool:
    """Returns whether a word of a folder's name begins like a split's, as in ``seg_train`` and ``Testdaten``."""
    return any(_BEGINNING.match(word.casefold()) for word in _PART.findall(name))


def _look_like_splits(folders: list[Path], inside: dict[Path, set[str]]) -> tuple[Path, Path] | None:
    """Finds two folders that look like splits.

    Their names differ only in a split's word, or contain words that begin like different splits' and the folders
    share more than one class.
    """
    for pair in combinations([folder for folder in folders if may_hold_split(folder.name)], 2):
        words = [[word.casefold() for word in _PART.findall(folder.name)] for folder in pair]
        differences = [two for two in zip_longest(*words, fillvalue="") if two[0] != two[1]]
        differ_in_split = len(differences) == 1 and all(
            word in SPLIT_WORDS or word in _UNCLEAR_WORDS for word in differences[0]
        )
        beginnings = [{m[0] for word in name if (m := _BEGINNING.match(word))} for name in words]
        shared = inside[pair[0]] & inside[pair[1]]
        if differ_in_split or (beginnings[0] != beginnings[1] and len(shared) > 1):
            return pair
    return None


def split_folders(root: Path, folders: list[Path], inside: dict[Path, set[str]]) -> dict[Path, str]:
    """Decides whether the folders at the top of a data set are splits or classes.

    Args:
        root: The data set's folder, for errors.
        folders: The folders in it.
        inside: The names of the folders in each of them.

    Returns:
        dict[Path, str]: The split of each folder; empty if they are classes.

    Raises:
        UserError: Some are splits and some are not, or it is unclear which split one is.
    """
    kinds = {folder: split_by_name(folder.name) for folder in folders}
    named = [folder for folder in folders if kinds[folder] not in ("", UNCLEAR)]
    unclear = [folder for folder in folders if kinds[folder] == UNCLEAR]
    others = [folder for folder in folders if folder not in named]
    remedy = "or list the images in samples.csv with a column split"
    if unclear and len(named) + len(unclear) > 1:
        sibling = next(folder.name for folder in folders if kinds[folder] and folder != unclear[0])
        raise UserError(
            f"{root}: holds {sibling} and {unclear[0].name}: which split is {unclear[0].name}? "
            f"Rename it to val or test, {remedy}"
        )
    if named and not others:
        return kinds
    similar = [other for other in others if any(len(inside[other] & inside[folder]) > 1 for folder in named)]
    if len(named) > 1 or similar:
        listed, other = ", ".join(folder.name for folder in named[:2]), (similar or others)[0].name
        raise UserError(
            f"{root}: holds {listed}, which name{'s' * (len(named) == 1)} a split, next to {other}; "
            f"name the splits train, val and test and move other folders elsewhere, {remedy}"
        )
    if pair := _look_like_splits(folders, inside):
        raise UserError(
            f"{root}: {pair[0].name} and {pair[1].name} look like splits, not classes; name them train, "
            f"val and test, {remedy}"
        )
    return {}
