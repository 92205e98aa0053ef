"""The conversation that every format writes, an image with a question and an answer; and shared file helpers."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json, write_text
from data_prep.prompting.prompts import list_answer

TAG = "<image>"
"""Marks the position of the image in the text."""


@dataclass(frozen=True)
class Document:
    """A candidate as a reranker's set shows it.

    Attributes:
        text: Its name, and its description where the example has one.
        is_right: Whether it is the right one.
    """

    text: str
    is_right: bool


@dataclass(frozen=True)
class Conversation:
    """An exported ranking example.

    Attributes:
        key: The example's key.
        image: Path of the image, relative to the export's folder.
        names: The candidates in the order shown.
        prompt: The question, without an image tag.
        answer: The list that the model is to write.
        truth: The right name; empty where there is none.
        documents: The candidates in retriever order.
        rejected: A list that is worse than ``answer``; empty where nothing is wrong.
    """

    key: str
    image: str
    names: Sequence[str]
    prompt: str
    answer: str
    truth: str = ""
    documents: Sequence[Document] = ()
    rejected: str = ""


@dataclass(frozen=True)
class Turn:
    """A record as the trainer reads it.

    Attributes:
        user: The user's text.
        assistant: The answer.
        images: Paths relative to the export's folder.
        tags: Number of image tags that ``user`` must contain.
    """

    user: str
    assistant: str
    images: list[str]
    tags: int = 1

    def find_problem(self, expected: Conversation, folder: Path) -> str | None:
        """Returns how the record differs from its conversation, or None."""
        names = set(expected.names)
        if self.user.count(TAG) != self.tags or TAG in self.assistant:
            return f"{self.user.count(TAG)} image tags instead of {self.tags}"
        if self.images != [expected.image] or not (folder / expected.image).is_file():
            return f"images {self.images}, of which one is missing"
        if not set(ast.literal_eval(self.assistant)) <= names or list_answer(expected.names) not in self.user:
            return "names that differ from the example's"
        return None


def write_list(path: Path, records: Iterable[dict]) -> None:
    """Writes records as one JSON list, one record per line."""
    write_text(path, "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n")


def write_lines(path: Path, records: Iterable[dict]) -> None:
    """Writes records as JSON lines."""
    write_text(path, "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records))


def read_list(path: Path) -> list[dict]:
    """Reads the records that ``write_list`` wrote.

    Raises:
        UserError: The file is missing or is not a list.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise UserError(f"{path}: must be a JSON list of records, but is a {type(records).__name__}")
    return records


def read_lines(path: Path) -> Iterator[dict]:
    """Reads the records that ``write_lines`` wrote."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def make_messages(conversation: Conversation, tag: str) -> list[dict]:
    """Returns the two turns as messages of role and content; the user's text starts with the tag."""
    return [
        {"role": "user", "content": tag + conversation.prompt},
        {"role": "assistant", "content": conversation.answer},
    ]
