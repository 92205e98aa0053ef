"""A memory that a user keeps: images, names and the recipe that they were made by, changed together or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock, read_manifest, write_manifest
from data_prep.core.names import normalize_name
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.memory.files import check_kept, drop_others, keep
from data_prep.memory.memory import KINDS_OF_FILES, Memory
from data_prep.settings import Recipe, check
from data_prep.settings.loading import load_saved_recipe, save_recipe

log = logging.getLogger(__name__)

MANIFEST = Path("names", "manifest.json")
"""The one manifest, beside the names, since a class is its name: it says all of the names and, under ``images`` and
``recipe``, of the images and of the recipe's file."""


def _restore(folder: Path) -> str:
    """The remedy for damage; unlike a cache, a kept memory is not made again by itself."""
    return (
        f"put {folder} back from a copy, or build it again over what is there and add again what was added "
        "(python -m data_prep.memory build)"
    )


def _lock(folder: Path) -> AbstractContextManager[None]:
    return file_lock(folder / "memory")


def _check_there(folder: Path) -> None:
    left = any((folder / what).is_dir() for what in ("images", "names"))
    check(not left or (folder / MANIFEST).is_file(), f"{folder / MANIFEST}: missing; {_restore(folder)}")
    check((folder / MANIFEST).is_file(), f"{folder}: no memory there; build one first")


@contextmanager
def memory_lock(folder: Path) -> Iterator[None]:
    """Holds a kept memory's lock, so that commands that read, change and write it do so one after another.

    Raises:
        UserError: There is no memory, or another command holds it for too long.
    """
    _check_there(folder)
    with _lock(folder):
        yield


@dataclass
class KeptMemory:
    """A memory of images and the memory of their classes' names.

    Attributes:
        folder: Where it is kept.
        images: Of the classes.
        names: Of the classes.
        manifest: What the folder's manifest says.
    """

    folder: Path
    images: Memory
    names: Memory
    manifest: dict

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, images: Memory, names: Memory) -> KeptMemory:
        """Keeps a new memory in a folder; one that was there is replaced in one step."""
        with _lock(folder):
            if (folder / MANIFEST).exists():
                log.warning("memory: replacing what is in %s", folder)
            kept = keep(folder, "recipe", ".yaml", lambda part: save_recipe(part, recipe))
            made = cls(folder, images, names, {"recipe": kept})
            made.save()
        return made

    @classmethod
    def load(cls, folder: Path, settings: list[str]) -> tuple[Recipe, Encoder, KeptMemory]:
        """Reads a kept memory, its recipe with some settings, and its encoder.

        Raises:
            UserError: There is none, a file is missing or damaged, or the settings give another encoder.
        """
        _check_there(folder)
        remedy = _restore(folder)
        manifest = read_manifest(folder / MANIFEST, remedy)
        try:
            check_kept(folder, manifest["recipe"], remedy)
            recipe = load_saved_recipe(folder / next(iter(manifest["recipe"])), settings)
            encoder = load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))
            images, names = (
                Memory.read(folder / what, own, encoder.id, recipe.retriever, remedy)
                for what, own in (("images", manifest["images"]), ("names", _of_names(manifest)))
            )
        except UserError:
            if read_manifest(folder / MANIFEST, remedy) != manifest:  # another command changed it meanwhile
                return cls.load(folder, settings)
            raise
        return recipe, encoder, cls(folder, images, names, manifest)

    def save(self) -> None:
        """Writes what has changed. Hold the lock from ``load`` to here.

        The manifest is renamed into place last and names every other file by its content, so a kill at any moment
        leaves the memory that was there before, or this one.
        """
        recipe, before = self.manifest["recipe"], self.manifest.get("images")
        images = self._written("images", self.images, before)
        names = self._written("names", self.names, _of_names(self.manifest))
        self.manifest = names | {"images": images, "recipe": recipe}
        write_manifest(self.folder / MANIFEST, self.manifest)
        drop_others(self.folder, {"recipe": ".yaml"}, recipe)
        drop_others(self.folder / "images", KINDS_OF_FILES, images["files"])
        drop_others(self.folder / "names", KINDS_OF_FILES, names["files"])

    def _written(self, what: str, memory: Memory, before: dict | None) -> dict:
        if before and (before["next_id"], before["entries"]) == (memory.next_id, len(memory)):
            return before  # ids are never given again: nothing was added or removed
        return memory.write(self.folder / what)

    def label_of(self, name: str) -> int | None:
        """The class of a name, however it is spelled in case, white space and Unicode form."""
        wanted = normalize_name(name)
        return next((entry.label for entry in self.names.entries if normalize_name(entry.key) == wanted), None)

    def new_label(self) -> int:
        """A label that no class has."""
        return 1 + max((int(memory.labels.max()) for memory in (self.images, self.names) if len(memory)), default=-1)


def _of_names(manifest: dict) -> dict:
    """What the manifest says of the names alone; nothing in a folder that is only being made."""
    return {key: value for key, value in manifest.items() if key not in ("images", "recipe")}
