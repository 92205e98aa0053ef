"""A user's persistent memory: images, names and the recipe that made them, updated atomically."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock, read_manifest, write_manifest
from data_prep.core.names import normalize_name
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.memory.files import read_entries, remove_unreferenced, verify_files, write_content_addressed
from data_prep.memory.memory import FILE_SUFFIXES, Memory
from data_prep.reading.sources import MANIFEST
from data_prep.settings import Recipe, RetrieverArgs, check
from data_prep.settings.loading import load_saved_recipe, save_recipe

log = logging.getLogger(__name__)


def _damage_remedy(folder: Path) -> str:
    """Returns the remedy for damage; unlike a cache, a persistent memory is not rebuilt automatically."""
    return (
        f"restore {folder} from a copy, or rebuild it over the old one and repeat what was added "
        "(python -m data_prep.memory build)"
    )


def _lock(folder: Path) -> AbstractContextManager[None]:
    return file_lock(folder / "memory")


def _check_exists(folder: Path) -> None:
    has_remains = any((folder / modality).is_dir() for modality in ("images", "names"))
    check(not has_remains or (folder / MANIFEST).is_file(), f"{folder / MANIFEST}: missing; {_damage_remedy(folder)}")
    check((folder / MANIFEST).is_file(), f"{folder}: no memory there; build one first")


@contextmanager
def memory_lock(folder: Path) -> Iterator[None]:
    """Holds a memory's lock, so that commands that read, change and write it run one after another.

    Raises:
        UserError: There is no memory, or another command holds the lock for too long.
    """
    _check_exists(folder)
    with _lock(folder):
        yield


@dataclass
class StoredMemory:
    """A memory on disk: images of classes, and the classes' names.

    Attributes:
        folder: Folder of the memory.
        images: Memory of the classes' images.
        names: Memory of the classes' names.
        manifest: Content of the folder's manifest.
    """

    folder: Path
    images: Memory
    names: Memory
    manifest: dict

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, images: Memory, names: Memory) -> StoredMemory:
        """Writes a new memory to a folder; an existing one is replaced atomically."""
        with _lock(folder):
            if (folder / MANIFEST).exists():
                log.warning("memory: replacing what is in %s", folder)
            recipe_file = write_content_addressed(folder, "recipe", ".yaml", lambda part: save_recipe(part, recipe))
            memory = cls(folder, images, names, {"recipe": recipe_file})
            memory.save()
        return memory

    @classmethod
    def load(cls, folder: Path, settings: list[str]) -> tuple[Recipe, Encoder, StoredMemory]:
        """Reads a memory, its recipe with settings applied, and its encoder.

        Args:
            folder: Folder of the memory.
            settings: Settings that override the recipe's, as ``key.sub=value``.

        Raises:
            UserError: There is no memory, a file is missing or damaged, or the settings give another encoder.
        """
        _check_exists(folder)
        remedy = _damage_remedy(folder)
        manifest = read_manifest(folder / MANIFEST, remedy)
        try:
            verify_files(folder, manifest["recipe"], remedy)
            recipe = load_saved_recipe(folder / next(iter(manifest["recipe"])), settings)
            encoder = load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))
            memory = cls._read(folder, manifest, encoder, recipe.retriever)
        except UserError:
            if read_manifest(folder / MANIFEST, remedy) != manifest:  # another command has changed it since
                return cls.load(folder, settings)
            raise
        return recipe, encoder, memory

    @classmethod
    def open(cls, folder: Path, encoder: Encoder, args: RetrieverArgs) -> StoredMemory:
        """Reads a memory to search it with a loaded encoder.

        Args:
            folder: Folder of the memory.
            encoder: The encoder of the queries.
            args: Search settings.

        Raises:
            UserError: There is no memory, a file is missing or damaged, or another encoder made it.
        """
        _check_exists(folder)
        manifest = read_manifest(folder / MANIFEST, _damage_remedy(folder))
        try:
            return cls._read(folder, manifest, encoder, args)
        except UserError:
            if read_manifest(folder / MANIFEST, _damage_remedy(folder)) != manifest:
                return cls.open(folder, encoder, args)
            raise

    @classmethod
    def _read(cls, folder: Path, manifest: dict, encoder: Encoder, args: RetrieverArgs) -> StoredMemory:
        remedy = _damage_remedy(folder)
        sides = (
            ("images", manifest["images"], encoder.image_encoder.id),
            ("names", _names_manifest(manifest), encoder.name_encoder.id),
        )
        images, names = (
            Memory.read(folder / modality, part, encoder_id, args, remedy, encoder.processes.accelerator)
            for modality, part, encoder_id in sides
        )
        return cls(folder, images, names, manifest)

    @property
    def is_current(self) -> bool:
        """Whether the folder holds what was read or written here last, so no other command has changed it since."""
        known = json.loads(json.dumps(self.manifest))
        return read_manifest(self.folder / MANIFEST, _damage_remedy(self.folder)) == known

    def save(self) -> None:
        """Writes what has changed. The caller holds the lock from ``load`` until here.

        The manifest is renamed into place last and refers to every other file by its content, so a kill at any moment
        leaves either the previous memory or this one.
        """
        recipe, previous_images = self.manifest["recipe"], self.manifest.get("images")
        images = self._write_if_changed("images", self.images, previous_images)
        names = self._write_if_changed("names", self.names, _names_manifest(self.manifest))
        self.manifest = names | {"images": images, "recipe": recipe}
        write_manifest(self.folder / MANIFEST, self.manifest)
        remove_unreferenced(self.folder, {"recipe": ".yaml"}, recipe)
        remove_unreferenced(self.folder / "images", FILE_SUFFIXES, images["files"])
        remove_unreferenced(self.folder / "names", FILE_SUFFIXES, names["files"])

    def _write_if_changed(self, modality: str, memory: Memory, previous: dict | None) -> dict:
        """Returns the memory's manifest, after writing its files where entries were added or removed."""
        if previous and (previous["next_id"], previous["entries"]) == (memory.next_id, len(memory)):
            return previous  # ids are never reused, so nothing was added or removed
        return memory.write(self.folder / modality)

    def label_of(self, name: str) -> int | None:
        """Returns the class of a name, regardless of case, white space and Unicode form; None where there is none."""
        target = normalize_name(name)
        return next((entry.label for entry in self.names.entries if normalize_name(entry.key) == target), None)

    def new_label(self) -> int:
        """Returns a label that no class has."""
        return 1 + max((int(memory.labels.max()) for memory in (self.images, self.names) if len(memory)), default=-1)


def count_classes(folder: Path) -> dict[str, int]:
    """Reads the number of images of each class of a memory, by name; loads neither vectors nor an encoder.

    Raises:
        UserError: There is no memory, or a file is missing or damaged.
    """
    _check_exists(folder)
    remedy = _damage_remedy(folder)
    manifest = read_manifest(folder / MANIFEST, remedy)
    entries = {}
    try:
        for modality, part in (("images", manifest["images"]), ("names", _names_manifest(manifest))):
            name = part["parts"]["entries"]
            verify_files(folder / modality, {name: part["files"][name]}, remedy)
            entries[modality] = read_entries(folder / modality / name)[1]
    except UserError:
        if read_manifest(folder / MANIFEST, remedy) != manifest:  # another command has changed it since
            return count_classes(folder)
        raise
    images = Counter(entry.label for entry in entries["images"])
    return {entry.key: images[entry.label] for entry in entries["names"]}


def _names_manifest(manifest: dict) -> dict:
    """Returns the part of the manifest that describes the names; empty while the memory is being created."""
    return {key: value for key, value in manifest.items() if key not in ("images", "recipe")}
