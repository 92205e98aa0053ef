"""The classes of a service: changed in memory and, where a folder is given, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.embedding.image_inputs import OpenedImage
from eval.recognition.recognizer import Recognizer
from eval.recognition.uploads import add_to_class


class NoSuchClass(UserError):
    """A class that the memory does not have."""


class ServedClasses:
    """The classes of a recognizer's memory.

    Args:
        recognizer: Has the memory.
        folder: Where every change is saved before a method returns; None: nowhere. The recognizer was loaded from
            there, or else its memory is written there.
    """

    def __init__(self, recognizer: Recognizer, folder: Path | None):
        self.recognizer, self.folder = recognizer, folder
        stored = recognizer.memory.stored
        if folder is not None and (stored is None or stored.folder.resolve() != folder.resolve()):
            recognizer.memory.save(folder)  # from now on it is stored there; another kept memory stays as it was

    def list(self) -> dict[str, int]:
        """Returns the number of images of each class, by name, sorted."""
        return dict(sorted(self.recognizer.memory.classes.items()))

    def add(self, name: str, images: Sequence[OpenedImage]) -> dict[str, str | int | bool]:
        """Adds a class, or images to one.

        Returns:
            dict: ``name`` as it is stored, whether it is ``new``, images ``added``, and ``images`` in all.

        Raises:
            UserError: The name has no visible character, a known class is given without images, or the memory's folder
                was changed by another command.
        """
        with self.recognizer.lock:
            done = add_to_class(self.recognizer.memory, name, images)
            self._save()
            return asdict(done)

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
