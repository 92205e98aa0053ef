"""The images to label: where each of them is, in one line of the list of a job."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Item:
    """One image to label, or one box of it.

    Attributes:
        kind: ``file``, ``tar``, ``parquet`` or ``box``.
        path: The file that holds it.
        id: What distinguishes it from others in the same file: the member of a shard, the row of a parquet file, or the
            id of the annotation; empty for an image file.
        position: In a shard, offset and size in bytes; in a parquet file, the row group and the row within it; of a
            box, width and height of the image by its record.
        box: Left, top, width and height in pixels, as in the annotation file.
    """

    kind: str
    path: str
    id: str = ""
    position: tuple[int, int] = (0, 0)
    box: Box | None = None

    def to_line(self) -> str:
        """Formats the item as a line of JSON; bytes of a path that are not UTF-8 are kept, as escapes."""
        return json.dumps([self.kind, self.path, self.id, self.position, self.box], separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> Item:
        """Parses a line that ``to_line`` wrote."""
        kind, path, key, position, box = json.loads(line)
        return cls(kind, path, key, tuple(position), None if box is None else tuple(box))

    def record(self) -> dict:
        """Returns the item's part of its output line, as text that can be written as UTF-8."""
        path, key = (os.fsencode(text).decode(errors="backslashreplace") for text in (self.path, self.id))
        return {"path": path, "id": key, "box": None if self.box is None else list(self.box)}
