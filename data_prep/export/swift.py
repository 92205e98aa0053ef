"""ms-swift's standard format: JSON lines of ``messages`` with a tag for each of the ``images``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.export.conversation import TAG, Conversation, Turn, make_messages, read_lines, write_lines

FILE = "swift.jsonl"
HINT = "ms-swift: ROOT_IMAGE_DIR=FOLDER swift sft --dataset FOLDER/swift.jsonl"


def write(folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
    """Writes the lines."""
    records = ({"messages": make_messages(each, TAG), "images": [each.image]} for each in conversations)
    write_lines(folder / FILE, records)


def read(folder: Path) -> Iterator[Turn]:
    """Yields the records."""
    for record in read_lines(folder / FILE):
        user, assistant = (turn["content"] for turn in record["messages"])
        yield Turn(user, assistant, record["images"])
