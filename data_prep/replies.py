"""Reads a ranking out of a model's reply: always a permutation of the candidates, never silent.

Outcome codes: ``ok``, the reply lists every candidate once; ``repaired``, repeats or strangers
were dropped or missing candidates appended in retriever order; ``unreadable``, no candidate was
found and the retriever's order stands.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from data_prep.records import Ranking


def _folded(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()


def _literal_list(reply: str) -> list[str] | None:
    """The first bracketed Python-style list of strings in a reply, if there is one that parses."""
    for start in (match.start() for match in re.finditer(r"\[", reply)):
        for end in (match.end() for match in re.finditer(r"\]", reply[start:])):
            try:
                value = ast.literal_eval(reply[start : start + end])
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                return value
    return None


def _mentions(reply: str, names: Sequence[str]) -> list[int]:
    """Positions of the candidates in the order in which a free text mentions them.

    A longer name is found before a shorter one that is part of it.
    """
    text = _folded(reply)
    found: list[tuple[int, int]] = []
    for position in sorted(range(len(names)), key=lambda i: -len(names[i])):
        name = _folded(names[position])
        match = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) if name else None
        if match:
            found.append((match.start(), position))
            text = text[: match.start()] + "\0" * len(name) + text[match.end() :]
    return [position for _, position in sorted(found)]


def read_list(reply: str, names: Sequence[str]) -> Ranking:
    """Reads a list of names.

    Args:
        reply: What the model wrote.
        names: The candidates in retriever order; names that differ only in case or white space
            count as the same and the first is meant.

    Returns:
        Ranking: A permutation of ``range(len(names))`` with its outcome.
    """
    positions: dict[str, int] = {}
    for position, name in enumerate(names):
        positions.setdefault(_folded(name), position)
    items = _literal_list(reply)
    if items is None:
        read, clean = _mentions(reply, names), False
    else:
        known = [positions[_folded(item)] for item in items if _folded(item) in positions]
        read = list(dict.fromkeys(known))
        clean = len(read) == len(items) == len(names)
    rest = [position for position in range(len(names)) if position not in read]
    outcome = "ok" if clean else "repaired" if read else "unreadable"
    return Ranking(order=(*read, *rest), outcome=outcome, reply=reply)
