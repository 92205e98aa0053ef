"""TRL's format: ``messages`` and ``images`` columns, as an image folder that ``datasets`` loads with decoded images.

TRL itself puts the images before the first user turn, so the text contains no tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.export.conversation import Conversation, Turn, make_messages, read_lines, write_lines

FILE = "metadata.jsonl"
HINT = 'TRL: train_dataset=datasets.load_dataset("imagefolder", data_dir=FOLDER, split="train")'


def write(folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
    """Writes the lines; ``images_file_names`` becomes the column ``images``."""
    records = ({"messages": make_messages(each, ""), "images_file_names": [each.image]} for each in conversations)
    write_lines(folder / FILE, records)


def read(folder: Path) -> Iterator[Turn]:
    """Yields the records."""
    for record in read_lines(folder / FILE):
        user, assistant = (turn["content"] for turn in record["messages"])
        yield Turn(user, assistant, record["images_file_names"], tags=0)
