"""LLaVA's list: turns of ``human`` and ``gpt``, one image path a record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.export.conversation import TAG, Conversation, Turn, read_list, write_list

FILE = "llava.json"
HINT = "LLaVA: --data_path FOLDER/llava.json --image_folder FOLDER"


def write(folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
    """Writes the list."""
    records = (
        {
            "id": one.key,
            "image": one.image,
            "conversations": [
                {"from": "human", "value": f"{TAG}\n{one.prompt}"},
                {"from": "gpt", "value": one.answer},
            ],
        }
        for one in conversations
    )
    write_list(folder / FILE, records)


def read(folder: Path) -> Iterator[Turn]:
    """The records of the list."""
    for record in read_list(folder / FILE):
        user, assistant = (turn["value"] for turn in record["conversations"])
        yield Turn(user, assistant, [record["image"]])
