"""Decides which folders are classes where class folders have sub-folders."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import takewhile

from data_prep.core.names import normalize_name

Folder = tuple[str, ...]
"""A folder that holds images, as names below the folder of classes, the top one first."""


@dataclass(frozen=True)
class Nesting:
    """Which folders are classes.

    Attributes:
        deepest: Whether each folder that holds images is a class; otherwise the folders at the top are, with all images
            below them.
        shared: Number of folders that the deepest share, from the top.
        rule: A sentence that says so; empty where no class folder has images in sub-folders.
    """

    deepest: bool = False
    shared: int = 0
    rule: str = ""

    def label(self, folder: Folder) -> str:
        """Returns the class of the images in a folder."""
        return "/".join(folder[self.shared :]) if self.deepest else folder[0]


def decide_nesting(folders: Collection[Folder], setting: str) -> Nesting:
    """Decides which folders are classes.

    By itself (``auto``) it takes the folders that hold images where these are species of a genus, so to speak: no image
    lies outside of them, their names have letters and are all different, and some top folder has several of them.
    Otherwise sub-folders are years, cameras or sources of one class.

    Args:
        folders: All folders that hold images, of all splits.
        setting: ``data.class_folders``.
    """
    nested = sorted(folder for folder in folders if len(folder) > 1)
    if not nested:
        return Nesting()
    leaves, tops = {normalize_name(folder[-1]) for folder in nested}, {folder[0] for folder in nested}
    are_species = (
        len(nested) == len(set(folders))
        and len(leaves) == len(nested)
        and all(any(letter.isalpha() for letter in leaf) for leaf in leaves)
        and len(nested) > len(tops)
    )
    if setting == "deepest" or (setting == "auto" and are_species):
        levels = zip(*(folder[:-1] for folder in folders))
        shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
        nesting = Nesting(True, shared)
        rule = f"the {len(set(folders))} folders that hold images are the classes, such as {nesting.label(nested[0])}"
        count = len({folder[0] for folder in folders})
        alternative = "it is the one at the top" if count == 1 else f"they are the {count} at the top"
        return replace(nesting, rule=f"{rule}; with data.class_folders=top {alternative}")
    shown = "/".join(nested[0])
    rule = f"images in sub-folders belong to the class of the folder at the top: those in {shown} are {nested[0][0]}"
    return Nesting(rule=f"{rule}; with data.class_folders=deepest each folder with images is a class")
