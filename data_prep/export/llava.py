"""LLaVA's format: a JSON list with turns of ``human`` and ``gpt`` and one image path per record."""

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
            "id": conversation.key,
            "image": conversation.image,
            "conversations": [
                {"from": "human", "value": f"{TAG}\n{conversation.prompt}"},
                {"from": "gpt", "value": conversation.answer},
            ],
        }
        for conversation in conversations
    )
    write_list(folder / FILE, records)


def read(folder: Path) -> Iterator[Turn]:
    """Yields the records of the list."""
    for record in read_list(folder / FILE):
        user, assistant = (turn["value"] for turn in record["conversations"])
        yield Turn(user, assistant, [record["image"]])
