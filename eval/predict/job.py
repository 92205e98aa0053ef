"""A labelling job on disk: the list of its images, and the lines so far, in parts that are written whole.

A part is a fixed run of images of the list, and its file is renamed into place when all of its lines are there. So a
kill loses no line and doubles none, and parts can be shared among any number of processes and machines.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import part_path, read_json, read_sealed, write_json, write_sealed, write_text
from eval.predict.items import Item
from rar_train.engine.run_folder import differences

log = logging.getLogger(__name__)

_DIGITS = 16  # hexadecimal digits of the content hash in the name of a part


class Job:
    """The folder of a job, ``FILE.parts`` next to the file that it writes.

    Args:
        output: The file that the job writes.

    Attributes:
        folder: The folder; removed when the job is done.
    """

    def __init__(self, output: Path):
        self.output = output
        self.folder = output.with_name(f"{output.name}.parts")
        self._list, self._state, self._lines = (self.folder / name for name in ("images.jsonl", "job.json", "lines"))

    @property
    def exists(self) -> bool:
        """Whether the job was begun and its file not written yet."""
        return self._state.exists()

    def write_list(self, items: Iterable[Item], per_part: int) -> dict:
        """Writes the list of images, or checks that it is the one that the job was begun with.

        Args:
            items: The images.
            per_part: Images per part of a new job.

        Returns:
            dict: What ``begin`` needs.

        Raises:
            UserError: There are no images, or they are not those that the job was begun with.
        """
        known = read_sealed(self._state, self._remedy()) if self.exists else None
        if not known:
            shutil.rmtree(self._lines, ignore_errors=True)  # of a job whose folder could not be removed
        per_part = known["images_per_part"] if known else per_part
        self.folder.mkdir(parents=True, exist_ok=True)
        part, count, digest, offsets, position = part_path(self._list), 0, hashlib.sha256(), [], 0
        try:
            with open(part, "wb") as file:
                for item in items:
                    if count % per_part == 0:
                        offsets.append(position)
                    line = item.to_line().encode()
                    digest.update(line)
                    position += file.write(line)
                    count += 1
            if not count:
                raise UserError("no images in what was given; give image files, or folders or archives that hold some")
            state = {"images": count, "sha256_of_list": digest.hexdigest(), "images_per_part": per_part}
            if known and state["sha256_of_list"] != known["sha256_of_list"]:
                raise UserError(self._describe_difference(part, count, known["images"]))
            part.replace(self._list)
        finally:
            part.unlink(missing_ok=True)
        return state | {"offsets": offsets, "settings": known["settings"] if known else None}

    def _describe_difference(self, new_list: Path, count: int, known_count: int) -> str:
        with open(new_list, "rb") as new, open(self._list, "rb") as old:
            number, line = next((i, new or old) for i, (new, old) in enumerate(zip_longest(new, old), 1) if new != old)
        item = Item.from_line(line)
        return (
            f"{self.folder}: was begun with other images ({known_count} then, {count} now; they differ from number "
            f"{number} on, {item.path}{' ' if item.id else ''}{item.id}); give the same ones, or another --to FILE, or "
            f"delete {self.folder} to begin again"
        )

    def begin(self, state: dict, settings: dict) -> list[int]:
        """Records what the lines depend on, or checks that it has not changed since the job was begun.

        Args:
            state: From ``write_list``.
            settings: Models, memory and settings.

        Returns:
            list[int]: Indices of the parts that are missing; for the other processes ``pending`` returns them too.

        Raises:
            UserError: Something has changed.
        """
        changed = differences(state["settings"] or settings, settings, ())
        if changed:
            raise UserError(
                f"{self.folder}: was begun with other settings ({'; '.join(changed[:4])}); give the same ones, or "
                f"another --to FILE, or delete {self.folder} to begin again"
            )
        self._lines.mkdir(exist_ok=True)
        write_sealed(self._state, state | {"settings": settings})
        self.load()
        pending = sorted(set(range(len(self.offsets))) - self._written().keys())
        write_json(self.folder / "pending.json", pending)
        return pending

    def load(self) -> None:
        """Reads the state that ``begin`` wrote, in whichever process."""
        state = read_sealed(self._state, self._remedy())
        self.images, self.per_part, self.offsets = state["images"], state["images_per_part"], state["offsets"]

    def pending(self) -> list[int]:
        """Returns the parts that were missing when the job was begun or continued."""
        return read_json(self.folder / "pending.json")

    def count_images(self, parts: Iterable[int]) -> int:
        """Counts the images of some parts."""
        return sum(min(self.per_part, self.images - part * self.per_part) for part in parts)

    def items(self, part: int) -> Iterator[Item]:
        """Yields the images of a part."""
        with open(self._list, "rb") as lines:
            lines.seek(self.offsets[part])
            for _ in range(self.count_images([part])):
                yield Item.from_line(lines.readline())

    def write_part(self, part: int, lines: list[str]) -> None:
        """Writes a part's lines; there must be one for each of its images."""
        assert len(lines) == self.count_images([part])
        text = "".join(lines)
        write_text(self._lines / f"{part:08d}-{_text_hash(text)}.jsonl", text)

    def _written(self) -> dict[int, Path]:
        """Returns the files of the parts that are there, by index."""
        return {int(path.name.split("-")[0]): path for path in self._lines.glob("[0-9]*.jsonl")}

    @property
    def is_complete(self) -> bool:
        """Whether every part is there."""
        return len(self._written()) == len(self.offsets)

    def parts(self) -> Iterator[list[str]]:
        """Yields each part's lines, in the order of the images.

        Raises:
            UserError: A part was changed or removed since it was written.
        """
        written = self._written()
        for part in range(len(self.offsets)):
            path = written.get(part)
            if path is None:
                raise UserError(f"{self._lines}: part {part} was removed; run the command again")
            text = path.read_bytes().decode(errors="replace")
            if not path.stem.endswith(_text_hash(text)):
                raise UserError(f"{path}: damaged (its checksum differs); delete it and run the command again")
            yield [f"{line}\n" for line in text.split("\n")[:-1]]

    def remove(self) -> None:
        """Removes the folder, and first of all what says that there is a job."""
        self._state.unlink(missing_ok=True)
        with suppress(OSError):  # another process may be making a lock there
            shutil.rmtree(self.folder)

    def _remedy(self) -> str:
        return f"delete {self.folder} to begin again"


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_DIGITS]
