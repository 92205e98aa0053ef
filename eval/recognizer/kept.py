"""The classes that the demo page and the service change: in memory and, where a folder is given, on disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock
from data_prep.embedding.image_inputs import ImageInput, OpenedImage
from data_prep.reading.sources import MANIFEST
from data_prep.settings import check
from eval.recognizer.class_lists import Classes
from eval.recognizer.recognizer import Recognizer
from eval.recognizer.uploads import Addition, add_to_class

log = logging.getLogger(__name__)


class NoSuchClass(UserError):
    """A class that the memory does not have."""


def lock_kept(folder: Path | None) -> AbstractContextManager[None]:
    """Keeps other pages and services out of the folder of a kept memory, while one uses it; None: there is none.

    Raises:
        UserError: Another one uses it.
    """
    return nullcontext() if folder is None else file_lock(folder / "service", 1)


def choose_classes(classes: Classes | None, folder: Path | None, option: str) -> Classes | None:
    """Returns the kept memory, or at its first start the given classes.

    Args:
        classes: A folder of images per class, a kept memory, or names; None for the run's own test split.
        folder: Where the memory is kept; None: nowhere.
        option: The option that gave the folder, for messages.

    Raises:
        UserError: The folder holds something else.
    """
    if folder is None:
        return classes
    if (folder / MANIFEST).is_file():
        if classes is not None:
            log.warning("the classes are those of %s %s; --classes is for its first start", option, folder)
        return str(folder)
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    check(not others, f"{option} {folder}: holds {', '.join(others[:3])}, but no memory; give a new folder")
    return classes


class KeptClasses:
    """The classes of a recognizer's memory.

    Args:
        recognizer: Has the memory.
        folder: Where every change is saved before a method returns; None: nowhere. The recognizer was loaded from
            there, or else its memory is written there.
    """

    def __init__(self, recognizer: Recognizer, folder: Path | None = None):
        self.recognizer, self.folder = recognizer, folder
        stored = recognizer.memory.stored
        if folder is not None and (stored is None or stored.folder.resolve() != folder.resolve()):
            recognizer.save(folder)  # from now on it is stored there; another kept memory stays as it was

    def list(self) -> dict[str, int]:
        """Returns the number of images of each class, by name, sorted."""
        return dict(sorted(self.recognizer.memory.classes.items()))

    def add(self, name: str, images: Sequence[ImageInput | OpenedImage], verb: str = "give") -> Addition:
        """Adds a class, or images to one; see ``add_to_class``.

        Raises:
            UserError: The name has no visible character, a known class is given without images, an image does not
                decode, or the memory's folder was changed by another command.
        """
        with self.recognizer.lock:
            done = add_to_class(self.recognizer.memory, name, images, verb)
            self._save()
            return done

    def remove(self, name: str) -> dict[str, str | int]:
        """Removes a class, and returns its ``name`` and the number of its ``images``.

        Raises:
            NoSuchClass: There is none of this name.
            UserError: It is the last one, or the memory's folder was changed by another command.
        """
        with self.recognizer.lock:
            known = self.recognizer.memory.find_name(name)
            if known is None:
                raise NoSuchClass(f"{name}: no such class")
            count = self.recognizer.memory.remove(known)
            self._save()
            return {"name": known, "images": count}

    def _save(self) -> None:
        """Saves the memory; where that fails, returns to what is on disk."""
        if self.folder is None:
            return
        try:
            self.recognizer.memory.save_changes()
        except BaseException:
            self.recognizer.remember(self.folder)
            raise
