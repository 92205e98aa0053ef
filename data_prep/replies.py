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


# A bracketed list of quoted strings. The alternatives exclude each other, so no reply takes long.
_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"\[\s*{_STRING}(?:\s*,\s*{_STRING})*\s*,?\s*\]", re.DOTALL)


def _literal_list(reply: str) -> list[str]:
    """The first bracketed Python-style list of strings in a reply, or none."""
    match = _LIST.search(reply)
    try:
        return ast.literal_eval(match.group()) if match else []
    except (ValueError, SyntaxError):
        return []


def _mentions(reply: str, names: Sequence[str]) -> list[int]:
    """Positions of the candidates in the order in which a free text first mentions them.

    A longer name is found, everywhere, before a shorter one that is part of it.
    """
    text = _folded(reply)
    found: list[tuple[int, int]] = []
    for position in sorted(range(len(names)), key=lambda i: -len(names[i])):
        name = _folded(names[position])
        pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        match = pattern.search(text) if name else None
        if match:
            found.append((match.start(), position))
            text = pattern.sub("\0" * len(name), text)
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
    read = list(dict.fromkeys(positions[_folded(item)] for item in items if _folded(item) in positions))
    clean = len(read) == len(items) == len(names)
    if not read:  # no list, or one of strangers alone
        read = _mentions(reply, names)
    rest = [position for position in range(len(names)) if position not in read]
    outcome = "ok" if clean else "repaired" if read else "unreadable"
    return Ranking(order=(*read, *rest), outcome=outcome, reply=reply)
