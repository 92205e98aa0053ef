"""Reads one record of another trainer's ranking set: the image, the candidates' names and the right one."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_CATEGORIES = "optional categories:"


class Unreadable(Exception):
    """A record is not a ranking example; the message says why."""


@dataclass(frozen=True)
class Parsed:
    """A ranking example as its record has it.

    Attributes:
        image: Path of the image.
        names: The candidates' names.
        truth: The right one.
        has_order: Whether the order of the names says nothing of the right one, and is kept.
    """

    image: str
    names: Sequence[str]
    truth: str
    has_order: bool = True


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name.strip() for name in value):
        raise Unreadable("a list of names does not parse")
    return value


def _written_names(text: Any) -> list[str]:
    """Parses a Python-style list of names."""
    try:
        return _names(ast.literal_eval(str(text).strip()))
    except (ValueError, SyntaxError):
        raise Unreadable("a list of names does not parse") from None


def _one_image(value: Any) -> str:
    """Returns the path of the one image, which is text, an object with a path, or a list of one of those."""
    (image,) = value if isinstance(value, list) else [value]
    path = image["path"] if isinstance(image, dict) else image
    if not isinstance(path, str):
        raise TypeError
    return path


def _last_text(messages: Any) -> str:
    """Returns the text of the last of some messages, of which the others are the question."""
    content = messages[-1]["content"] if isinstance(messages, list) else messages
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _images(record: dict) -> str:
    return _one_image(record["images"] if "images" in record else record["images_file_names"])


def _parse_rar(record: dict) -> list[Parsed]:
    user, assistant = (turn["value"] for turn in record["conversations"])
    image = _one_image(record["image"])
    _, marker, listed = user.partition(_CATEGORIES)
    if not marker:
        raise Unreadable("the prompt lists no categories")
    shown, answer = _written_names(listed.strip().removesuffix(".")), _written_names(assistant)
    if answer[0] not in shown:
        raise Unreadable("the answer's first name is no candidate")
    return [Parsed(image, shown, answer[0])]


def _parse_documents(image: str, right: Sequence[str], wrong: Sequence[str], documents: Sequence[str]) -> list[Parsed]:
    """Makes an example of each right document, without the other right ones."""
    if not right or not wrong:
        raise Unreadable("no right document, or no wrong one")
    has_order = bool(documents)
    return [
        Parsed(image, [text for text in documents if text in (truth, *wrong)] or [truth, *wrong], truth, has_order)
        for truth in dict.fromkeys(right)
    ]


def _parse_swift_reranker(record: dict) -> list[Parsed]:
    right, wrong = (
        _names([_last_text(messages) for messages in record[f"{kind}_messages"]]) for kind in ("positive", "negative")
    )
    return _parse_documents(_images(record), right, wrong, ())


def _parse_sentence_transformers(record: dict) -> list[Parsed]:
    image = _one_image(next(record[key] for key in ("image_file_name", "file_name", "image") if key in record))
    documents, labels = _names(record["docs"]), record["labels"]
    pairs = list(zip(documents, labels, strict=True))
    right, wrong = ([text for text, label in pairs if (label > 0) == is_right] for is_right in (True, False))
    return _parse_documents(image, right, wrong, documents)


def _parse_grpo(record: dict) -> list[Parsed]:
    names, truth = _names(record["candidates"]), record["solution"]
    if truth not in names:
        raise Unreadable("the solution is no candidate")
    return [Parsed(_images(record), names, truth)]


def _parse_dpo(record: dict) -> list[Parsed]:
    chosen, rejected = (_written_names(_last_text(record[key])) for key in ("chosen", "rejected"))
    names = list(dict.fromkeys([*chosen, *rejected]))
    return [Parsed(_images(record), names, chosen[0], has_order=False)]


_PARSERS: dict[str, Callable[[dict], list[Parsed]]] = {
    "rar": _parse_rar,
    "swift_reranker": _parse_swift_reranker,
    "swift_grpo": _parse_grpo,
    "trl_grpo": _parse_grpo,
    "trl_dpo": _parse_dpo,
    "sentence_transformers": _parse_sentence_transformers,
}


def parse_record(format_name: str, record: Any) -> list[Parsed]:
    """Returns the ranking examples of a record.

    Raises:
        Unreadable: It has none.
    """
    try:
        return _PARSERS[format_name](record)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration):
        raise Unreadable("not one image with the columns of the format") from None
