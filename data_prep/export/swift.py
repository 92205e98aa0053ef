"""ms-swift's standard JSON lines: ``messages`` with a tag for each of the ``images``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.export.conversation import TAG, Conversation, Turn, chat, read_lines, write_lines

FILE = "swift.jsonl"
HINT = "ms-swift: ROOT_IMAGE_DIR=FOLDER swift sft --dataset FOLDER/swift.jsonl"


def write(folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
    """Writes the lines."""
    write_lines(folder / FILE, ({"messages": chat(one, TAG), "images": [one.image]} for one in conversations))


def read(folder: Path) -> Iterator[Turn]:
    """The records of the lines."""
    for record in read_lines(folder / FILE):
        user, assistant = (turn["content"] for turn in record["messages"])
        yield Turn(user, assistant, record["images"])
