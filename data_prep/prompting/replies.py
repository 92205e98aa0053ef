"""Reads a ranking out of a model's reply: always a permutation of the candidates, never silent.

Outcome codes: ``ok``, the reply lists every candidate once; ``repaired``, repeats or strangers
were dropped or missing candidates appended in retriever order; ``unreadable``, no candidate was
found and the retriever's order stands.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from itertools import chain

from data_prep.core.names import normalize_name
from data_prep.core.records import Ranking
from data_prep.prompting.prompts import LETTERS

# A bracketed list of quoted strings or whole numbers. The alternatives exclude each other, so no reply takes long.
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d+)"""
_LIST = re.compile(rf"\[\s*{_ITEM}(?:\s*,\s*{_ITEM})*\s*,?\s*\]", re.DOTALL)
_LISTED = re.compile(rf"{_LIST.pattern}|\[\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\]", re.DOTALL)
_THINKING = re.compile(r"\A\s*<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"\A.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)
_PREAMBLE = re.compile(r"\A.*\b(?:answer|ranking|order|result)(?:\s+is)?\W{0,3}:[*_]*", re.DOTALL | re.IGNORECASE)
_SAID = re.compile(r"\banswer(?:\s+is)?\W{0,4}([a-z]|\d+)(?=[.,;)\]*]|\s*$)", re.IGNORECASE | re.MULTILINE)
_MARKER = re.compile(r"\s*(?:[-*•‣·]|\(?(?:\d+|[A-Za-z])[.):])\s+(?=\S)")
_QUOTES = "\"'`*_“”‘’«»"
_BETWEEN = re.compile(r"(?:[\s,;>|/→≻≥=]|-+>)+")
_OPENING = re.compile(rf"[\s\[({{{_QUOTES}]*")
_CLOSING = re.compile(rf"[\])}}{_QUOTES}]*(?:{_BETWEEN.pattern}|[\s.]*\Z)")
_LABEL = r"[\[(]?(?:\d+|[A-Za-z])[\])]?"
_CHAIN = re.compile(rf"(?<!\w){_LABEL}(?:\s*(?:>+|→|≻|-+>)\s*{_LABEL})+(?!\w)")


class _Reader:
    """Reads one reply; it holds the candidates' folded names and the labels that the prompt gave them."""

    def __init__(self, names: Sequence[str], shown: Sequence[str]):
        self.names = dict.fromkeys(normalize_name(name) for name in names)
        order = [normalize_name(name) for name in shown]
        self.labels = {str(place + 1): name for place, name in enumerate(order)}
        self.labels |= {letter.casefold(): name for letter, name in zip(LETTERS, order, strict=False)}
        self.longest_first = sorted(filter(None, self.names), key=len, reverse=True)

    def resolve(self, items: Sequence[str]) -> list[str]:
        """Folded names by items; an empty one for a stranger. Labels count where no item is a name."""
        plain = [normalize_name(item) for item in items]
        bare = [item if item in self.names else normalize_name(item.strip(_QUOTES)) for item in plain]
        if any(item in self.names for item in bare):
            return [item if item in self.names else "" for item in bare]
        return [self.labels.get(item.strip("().:"), "") for item in bare]

    def is_in_a_name(self, text: str) -> bool:
        """Whether a candidate's name holds the text."""
        return any(normalize_name(text) in name for name in self.names)

    def literal(self, text: str) -> list[str]:
        """The bracketed Python or JSON list that holds most candidates, the first of equals.

        Several with nothing but separators between, as in ``[3] > [1] > [2]``, are one. Brackets that belong to a
        candidate's own name, as in ``row [3]``, are no list.
        """
        runs: list[list[list[str]]] = []
        end = 0
        for match in _LISTED.finditer(text):
            if self.is_in_a_name(match.group()):
                continue
            if not runs or not _BETWEEN.fullmatch(text, end, match.start()):
                runs.append([])
            runs[-1].append(_items(match.group()))
            end = match.end()
        return self._most([items for run in runs for items in (*run, list(chain.from_iterable(run)))])

    def _most(self, found: Sequence[Sequence[str]]) -> list[str]:
        """The one of several lists that holds most candidates, the first of equals."""
        resolved = (self.resolve(items) for items in found)
        return max(resolved, key=lambda items: len(set(items) - {""}), default=[])

    def ordered(self, text: str) -> list[str]:
        """Labels within a sentence with signs between that say what goes first: three, or all where there are fewer."""
        found = [_BETWEEN.split(match.group()) for match in _CHAIN.finditer(text)]
        items = self._most([[part.strip("[]()") for part in parts] for parts in found])
        return items if len(set(items) - {""}) >= min(3, len(self.names)) else []

    def inline(self, text: str) -> list[str]:
        """A text that is nothing but candidates, or nothing but labels, with separators between."""
        text = normalize_name(text)
        names = self._consumed(text)
        if names:
            return names
        parts = [part.strip("()[].:" + _QUOTES) for part in _BETWEEN.split(text.strip("[]{}. "))]
        letters = [part for part in parts if part in self.labels and part.isalpha()]
        if letters and all(part in letters or part.isdecimal() for part in parts):
            parts = letters  # the numbers count them, as in "1: C, 2: A"
        known = [self.labels[part] for part in parts if part in self.labels]
        return known if known and len(known) == len(parts) else []

    def _consumed(self, text: str) -> list[str]:
        found, place = [], 0
        while place < len(text):
            word, place = self._next(text, place)
            if not word:
                return []
            found.append(word)
        return found

    def _next(self, text: str, place: int) -> tuple[str, int]:
        """The candidate at a place, with quotes or brackets around it or not, and where the next one begins."""
        for start in (place, _OPENING.match(text, place).end()):
            for word in self.longest_first:
                rest = _CLOSING.match(text, start + len(word)) if text.startswith(word, start) else None
                if rest:
                    return word, rest.end()
        return "", place

    def lines(self, text: str) -> list[str]:
        """Lines with bullets, numbers or letters before them; with a remark after the name or not."""
        items = [self._beginning(line) for line in find_lines(text)]
        return items if any(items) else []

    def _beginning(self, text: str) -> str:
        (exact,) = self.resolve([text])
        if exact:
            return exact
        text = normalize_name(text).lstrip(_QUOTES + "[(")
        begins = (name for name in self.longest_first if text.startswith(name))
        return next((name for name in begins if not text[len(name) : len(name) + 1].isalnum()), "")

    def mentions(self, text: str) -> list[str]:
        """Candidates in the order in which a free text first mentions them.

        A longer name is found, everywhere, before a shorter one that is part of it.
        """
        text = normalize_name(text)
        found: list[tuple[int, str]] = []
        for name in self.longest_first:
            pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
            match = pattern.search(text)
            if match:
                found.append((match.start(), name))
                text = pattern.sub("\0" * len(name), text)
        return [name for _, name in sorted(found)]

    def said(self, text: str) -> list[str]:
        """The label after "the answer is"."""
        match = _SAID.search(text)
        name = self.labels.get(match.group(1).casefold(), "") if match else ""
        return [name] if name else []


def _evaluated(text: str) -> list:
    for read in (json.loads, ast.literal_eval):  # where both can, they agree, but for JSON's own escapes
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return []


def _items(text: str) -> list[str]:
    """The items of a bracketed list; letters may be without quotes."""
    if re.match(r"\[\s*[A-Za-z]", text):
        return re.findall("[A-Za-z]", text)
    return [str(item) for item in _evaluated(text)]


def without_thought(reply: str) -> str:
    """A reply without the section in which a model thinks before it answers."""
    return _THOUGHT.sub("", _THINKING.sub("", reply)).strip()


def find_lists(text: str) -> list[list[str]]:
    """The bracketed Python or JSON lists of strings and whole numbers in a text, in order."""
    return [_items(match.group()) for match in _LIST.finditer(text)]


def find_lines(text: str) -> list[str]:
    """The lines that begin with a bullet, a number or a letter, without it."""
    found = ((line, _MARKER.match(line)) for line in text.splitlines())
    return [line[marker.end() :].strip() for line, marker in found if marker]


def _read(reader: _Reader, reply: str) -> tuple[list[str], bool]:
    """Names in the order read, strangers empty, and whether they stood as a list."""
    whole = reply.strip()
    # First, before anything within a name could pass for the end of a thought.
    if _LIST.fullmatch(whole) and not reader.is_in_a_name(whole):
        return reader.literal(whole), True
    text = without_thought(whole)
    after = _PREAMBLE.sub("", text).strip()
    parts = list(dict.fromkeys((after, text)))
    forms = [(reader.literal, part) for part in parts]
    forms += [(form, part) for part in parts for form in (reader.lines, reader.inline, reader.ordered)]
    for form, part in forms:
        items = form(part)
        if any(items):
            return items, True
    return reader.mentions(after) or reader.mentions(text) or reader.said(text), False


def read_list(reply: str, names: Sequence[str], shown: Sequence[str] | None = None) -> Ranking:
    """Reads the order of the candidates out of a reply.

    Understood are Python and JSON lists, lists by line with bullets or numbers, names or labels
    with separators between them (``[2] > [1]``), each with a preamble ("Answer:") or a thinking
    section before it, and last a free text, by the order of mention.

    Args:
        reply: What the model wrote.
        names: The candidates in retriever order. Names that differ only in case or white space count
            as the same; they stand together, in retriever order.
        shown: The names in the order of the prompt, which letters (A, B, …) and numbers (1, 2, …)
            refer to; the order of ``names`` if None.

    Returns:
        Ranking: A permutation of ``range(len(names))`` with its outcome.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(normalize_name(name), []).append(place)
    items, listed = _read(_Reader(names, names if shown is None else shown), reply)
    read = list(dict.fromkeys(item for item in items if item in places))
    rest = [name for name in places if name not in read]
    often = any(items.count(name) > len(places[name]) for name in read)
    clean = listed and read and not rest and not often and all(item in places for item in items)
    outcome = "ok" if clean or not names else "repaired" if read else "unreadable"
    order = [place for name in read for place in places[name]]
    order += [place for place in range(len(names)) if place not in order]
    return Ranking(order=tuple(order), outcome=outcome, reply=reply)
