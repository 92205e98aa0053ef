"""Parses a ranking from a model's reply: always a permutation of the candidates, with an outcome code.

Outcome codes: ``ok``, the reply lists every candidate once; ``repaired``, repeats or unknown names were dropped, or
missing candidates were appended in retriever order; ``unreadable``, no candidate was found and the retriever's order
is used.
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

# A bracketed list of quoted strings or integers. The alternatives are exclusive, which prevents slow backtracking.
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d+)"""
_LIST = re.compile(rf"\[\s*{_ITEM}(?:\s*,\s*{_ITEM})*\s*,?\s*\]", re.DOTALL)
_LISTED = re.compile(rf"{_LIST.pattern}|\[\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\]", re.DOTALL)
_THINKING = re.compile(r"\A\s*<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"\A.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)
_PREAMBLE = re.compile(r"\A.*\b(?:answer|ranking|order|result)(?:\s+is)?\W{0,3}:[*_]*", re.DOTALL | re.IGNORECASE)
_ANSWER_IS = re.compile(r"\banswer(?:\s+is)?\W{0,4}([a-z]|\d+)(?=[.,;)\]*]|\s*$)", re.IGNORECASE | re.MULTILINE)
_MARKER = re.compile(r"\s*(?:[-*•‣·]|\(?(?:\d+|[A-Za-z])[.):])\s+(?=\S)")
_QUOTES = "\"'`*_“”‘’«»"
_SEPARATOR = re.compile(r"(?:[\s,;>|/→≻≥=]|-+>)+")
_OPENING = re.compile(rf"[\s\[({{{_QUOTES}]*")
_CLOSING = re.compile(rf"[\])}}{_QUOTES}]*(?:{_SEPARATOR.pattern}|[\s.]*\Z)")
_LABEL = r"[\[(]?(?:\d+|[A-Za-z])[\])]?"
_CHAIN = re.compile(rf"(?<!\w){_LABEL}(?:\s*(?:>+|→|≻|-+>)\s*{_LABEL})+(?!\w)")


class _Reader:
    """Parses one reply by the candidates' normalised names and the labels that the prompt gave them.

    Args:
        names: Candidate names, in retriever order.
        shown: The names in the order of the prompt, which letters (A, B, …) and numbers (1, 2, …) refer to.
    """

    def __init__(self, names: Sequence[str], shown: Sequence[str]):
        self.names = dict.fromkeys(normalize_name(name) for name in names)
        shown_names = [normalize_name(name) for name in shown]
        self.labels = {str(number): name for number, name in enumerate(shown_names, 1)}
        self.labels |= {letter.casefold(): name for letter, name in zip(LETTERS, shown_names, strict=False)}
        self.longest_first = sorted(filter(None, self.names), key=len, reverse=True)

    def resolve(self, items: Sequence[str]) -> list[str]:
        """Maps items to normalised names, unknown ones to an empty string. Labels count only if no item is a name."""
        normalized = [normalize_name(item) for item in items]
        unquoted = [item if item in self.names else normalize_name(item.strip(_QUOTES)) for item in normalized]
        if any(item in self.names for item in unquoted):
            return [item if item in self.names else "" for item in unquoted]
        return [self.labels.get(item.strip("().:"), "") for item in unquoted]

    def is_in_a_name(self, text: str) -> bool:
        """Tells whether a candidate's name contains the text."""
        return any(normalize_name(text) in name for name in self.names)

    def literal(self, text: str) -> list[str]:
        """Returns the bracketed Python or JSON list with the most candidates, the first on ties.

        Several lists with only separators between them, as in ``[3] > [1] > [2]``, count as one. Brackets that are
        part of a candidate's name, as in ``row [3]``, are not a list.
        """
        runs: list[list[list[str]]] = []
        end = 0
        for match in _LISTED.finditer(text):
            if self.is_in_a_name(match.group()):
                continue
            if not runs or not _SEPARATOR.fullmatch(text, end, match.start()):
                runs.append([])
            runs[-1].append(_parse_items(match.group()))
            end = match.end()
        return self._best_list([items for run in runs for items in (*run, list(chain.from_iterable(run)))])

    def _best_list(self, lists: Sequence[Sequence[str]]) -> list[str]:
        """Resolves several lists and returns the one with the most candidates, the first on ties."""
        resolved = (self.resolve(items) for items in lists)
        return max(resolved, key=lambda items: len(set(items) - {""}), default=[])

    def ordered(self, text: str) -> list[str]:
        """Returns labels in a sentence joined by order signs (``C > A > B``): at least three, or all if fewer exist."""
        chains = [_SEPARATOR.split(match.group()) for match in _CHAIN.finditer(text)]
        items = self._best_list([[part.strip("[]()") for part in parts] for parts in chains])
        return items if len(set(items) - {""}) >= min(3, len(self.names)) else []

    def inline(self, text: str) -> list[str]:
        """Parses a text that consists only of candidates, or only of labels, and separators."""
        text = normalize_name(text)
        names = self._split_names(text)
        if names:
            return names
        parts = [part.strip("()[].:" + _QUOTES) for part in _SEPARATOR.split(text.strip("[]{}. "))]
        letters = [part for part in parts if part in self.labels and part.isalpha()]
        if letters and all(part in letters or part.isdecimal() for part in parts):
            parts = letters  # the numbers only count them, as in "1: C, 2: A"
        known = [self.labels[part] for part in parts if part in self.labels]
        return known if known and len(known) == len(parts) else []

    def _split_names(self, text: str) -> list[str]:
        """Splits a text that consists only of candidates and separators; empty if it contains anything else."""
        names, position = [], 0
        while position < len(text):
            name, position = self._next_name(text, position)
            if not name:
                return []
            names.append(name)
        return names

    def _next_name(self, text: str, position: int) -> tuple[str, int]:
        """Returns the candidate at a position, with or without quotes or brackets, and where the next one starts."""
        opening = _OPENING.match(text, position)
        for start in (position, opening.end() if opening else position):
            for name in self.longest_first:
                closing = _CLOSING.match(text, start + len(name)) if text.startswith(name, start) else None
                if closing:
                    return name, closing.end()
        return "", position

    def lines(self, text: str) -> list[str]:
        """Parses lines that start with a bullet, number or letter, with or without a remark after the name."""
        items = [self._name_at_start(line) for line in find_lines(text)]
        return items if any(items) else []

    def _name_at_start(self, text: str) -> str:
        (exact,) = self.resolve([text])
        if exact:
            return exact
        text = normalize_name(text).lstrip(_QUOTES + "[(")
        prefixes = (name for name in self.longest_first if text.startswith(name))
        return next((name for name in prefixes if not text[len(name) : len(name) + 1].isalnum()), "")

    def mentions(self, text: str) -> list[str]:
        """Returns the candidates in the order in which free text first mentions them.

        Longer names are matched first, so that a shorter name within a longer one is not a mention.
        """
        text = normalize_name(text)
        mentioned: list[tuple[int, str]] = []
        for name in self.longest_first:
            pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
            match = pattern.search(text)
            if match:
                mentioned.append((match.start(), name))
                text = pattern.sub("\0" * len(name), text)
        return [name for _, name in sorted(mentioned)]

    def stated_answer(self, text: str) -> list[str]:
        """Returns the candidate whose label follows "the answer is"."""
        match = _ANSWER_IS.search(text)
        name = self.labels.get(match.group(1).casefold(), "") if match else ""
        return [name] if name else []


def _parse_literal(text: str) -> list:
    for parse in (json.loads, ast.literal_eval):  # where both succeed, they agree except on JSON's own escapes
        try:
            return parse(text)
        except (ValueError, SyntaxError):
            continue
    return []


def _parse_items(text: str) -> list[str]:
    """Returns the items of a bracketed list; letters may be unquoted."""
    if re.match(r"\[\s*[A-Za-z]", text):
        return re.findall("[A-Za-z]", text)
    return [str(item) for item in _parse_literal(text)]


def strip_thinking(reply: str) -> str:
    """Removes the section in which a model thinks before it answers."""
    return _THOUGHT.sub("", _THINKING.sub("", reply)).strip()


def find_lists(text: str) -> list[list[str]]:
    """Returns the bracketed Python or JSON lists of strings and integers in a text, in order."""
    return [_parse_items(match.group()) for match in _LIST.finditer(text)]


def find_lines(text: str) -> list[str]:
    """Returns the lines that start with a bullet, number or letter, without that marker."""
    lines = ((line, _MARKER.match(line)) for line in text.splitlines())
    return [line[marker.end() :].strip() for line, marker in lines if marker]


def _extract_names(reader: _Reader, reply: str) -> tuple[list[str], bool]:
    """Extracts names in the order of the reply, unknown ones empty; also tells whether they form a list."""
    stripped = reply.strip()
    # Checked first, since text within a name could look like the end of a thinking section.
    if _LIST.fullmatch(stripped) and not reader.is_in_a_name(stripped):
        return reader.literal(stripped), True
    text = strip_thinking(stripped)
    after_preamble = _PREAMBLE.sub("", text).strip()
    parts = list(dict.fromkeys((after_preamble, text)))
    attempts = [(reader.literal, part) for part in parts]
    attempts += [(parse, part) for part in parts for parse in (reader.lines, reader.inline, reader.ordered)]
    for parse, part in attempts:
        items = parse(part)
        if any(items):
            return items, True
    return reader.mentions(after_preamble) or reader.mentions(text) or reader.stated_answer(text), False


def read_list(reply: str, names: Sequence[str], shown: Sequence[str] | None = None) -> Ranking:
    """Parses the order of the candidates from a reply.

    It accepts Python and JSON lists, lists with one item per line with bullets or numbers, and names or labels with
    separators between them (``[2] > [1]``), each also after a preamble ("Answer:") or a thinking section; and as a last
    resort free text, by order of mention.

    Args:
        reply: The text that the model wrote.
        names: The candidates in retriever order. Names that differ only in case or white space count as the same and
            are placed next to each other, in retriever order.
        shown: The names in the order of the prompt, which letters (A, B, …) and numbers (1, 2, …) refer to; None: the
            order of ``names``.

    Returns:
        Ranking: A permutation of ``range(len(names))`` with its outcome.
    """
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        positions.setdefault(normalize_name(name), []).append(position)
    items, is_list = _extract_names(_Reader(names, names if shown is None else shown), reply)
    ranked = list(dict.fromkeys(item for item in items if item in positions))
    missing = [name for name in positions if name not in ranked]
    repeated = any(items.count(name) > len(positions[name]) for name in ranked)
    is_clean = is_list and ranked and not missing and not repeated and all(item in positions for item in items)
    outcome = "ok" if is_clean or not names else "repaired" if ranked else "unreadable"
    order = [position for name in ranked for position in positions[name]]
    order += [position for position in range(len(names)) if position not in order]
    return Ranking(order=tuple(order), outcome=outcome, reply=reply)
