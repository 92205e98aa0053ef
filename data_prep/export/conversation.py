"""What every format says in its own words: a picture, a question about it, and the answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json, write_text

TAG = "<image>"
"""Stands in the text where the picture goes."""


@dataclass(frozen=True)
class Conversation:
    """One ranking example as it is exported.

    Attributes:
        key: The example's key.
        image: The picture's path below the export's folder.
        names: The candidates in the order shown.
        prompt: The question, without a tag.
        answer: The list that is asked for.
    """

    key: str
    image: str
    names: Sequence[str]
    prompt: str
    answer: str


@dataclass(frozen=True)
class Turn:
    """A record as its trainer reads it.

    Attributes:
        user: The user's text.
        assistant: The answer.
        images: Paths below the export's folder.
        tags: Image tags that ``user`` must hold.
    """

    user: str
    assistant: str
    images: list[str]
    tags: int = 1


def write_list(path: Path, records: Iterable[dict]) -> None:
    """Writes records as one JSON list, a record a line."""
    write_text(path, "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n")


def write_lines(path: Path, records: Iterable[dict]) -> None:
    """Writes records as JSON lines."""
    write_text(path, "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records))


def read_list(path: Path) -> list[dict]:
    """The records of ``write_list``.

    Raises:
        UserError: The file is missing or is no list.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise UserError(f"{path}: must be a JSON list of records, but is a {type(records).__name__}")
    return records


def read_lines(path: Path) -> Iterator[dict]:
    """The records of ``write_lines``."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def chat(conversation: Conversation, tag: str) -> list[dict]:
    """The two turns as role and content."""
    return [
        {"role": "user", "content": tag + conversation.prompt},
        {"role": "assistant", "content": conversation.answer},
    ]
