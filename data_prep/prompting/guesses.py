"""Free-form naming: parses the class names that an MLLM guesses from its replies, counts them and elects a vocabulary.

Outcome codes: ``ok``, the reply lists exactly the requested number of names and nothing else; ``repaired``, the names
came from another form or a truncated reply, or there were repeats, too many or too few; ``unreadable``, the reply
contains nothing that could be a name.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_prep.core.names import normalize_name
from data_prep.prompting.replies import find_lines, find_lists, strip_thinking

MAX_WORDS = 16
"""Maximum number of words in a name; a longer text is a sentence."""

_QUOTES = "\"'`*_“”‘’«»"
_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=\S)", re.IGNORECASE)
_LEAD = re.compile(
    r"^(?:(?:the|this) (?:picture|image|photo|photograph) (?:shows|depicts|contains|features)|(?:this|it) is|it's|"
    r"(?:possible |likely )?(?:answers?|names?)(?: (?:is|are))?(?=\s*:))\s*:?\s*",
    re.IGNORECASE,
)
_REMARK = re.compile(r"(?:\s+[-–—]\s+|:\s+|\*\*:?\s+).*$", re.DOTALL)
_SENTENCES = re.compile(r"[.!?]\s+[A-Z]")
_REFUSAL = re.compile(
    r"\b(?:sorry|cannot|can't|can not|unable|not (?:able|sure|possible)|do(?:n't| not) know|as an ai)\b", re.IGNORECASE
)
_NOTHING = frozenset(("unknown", "n/a", "none", "unidentified", "unsure", "unclear", "other", "etc"))
_TRUNCATED = re.compile(r"""\[\s*((?:(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*,\s*)+)""", re.DOTALL)


@dataclass(frozen=True)
class Guess:
    """The names that the MLLM guessed for an image.

    Attributes:
        names: Distinct names, in the order of the reply; at most the requested number.
        outcome: ``ok``, ``repaired`` or ``unreadable``.
        reply: The text of the reply.
    """

    names: tuple[str, ...]
    outcome: str
    reply: str


def _clean_name(text: str) -> str:
    """Strips quotes, mark-up, article and full stop from a name; returns an empty string if it is not a name."""
    name = re.sub(r"\s+", " ", text).strip().strip(_QUOTES).strip()
    name = _ARTICLE.sub("", name.rstrip(".;,").strip(_QUOTES).strip())
    is_name = any(c.isalnum() for c in name) and not name.isdigit() and normalize_name(name) not in _NOTHING
    is_name = is_name and not name.endswith(":")  # a lead-in to names
    return name if is_name and len(name.split()) <= MAX_WORDS and not _SENTENCES.search(name) else ""


def _strip_remark(line: str) -> str:
    """Removes the remark after the name in a list line."""
    return _REMARK.sub("", line) or line


def _split_enumeration(line: str) -> list[str]:
    """Splits a line that enumerates names, without its lead-in."""
    enumeration = line.rpartition(": ")[2].strip().strip("[](){}")
    parts = re.split(r"\s*[,;/|]\s*(?:and\s+|or\s+)?|\s+or\s+", enumeration)
    return [part for part in parts if part]


def _extract_names(text: str, count: int) -> tuple[list[str], bool]:
    """Extracts names as written, and tells whether the reply has the requested form."""
    # A list of numbers alone is a remark, or part of a name.
    lists = (items for items in find_lists(text) if not all(item.isdigit() for item in items))
    longest = max(lists, key=len, default=[])
    if longest:
        return longest, text.startswith("[") and text.endswith("]")
    truncated = _TRUNCATED.search(text)
    if truncated:
        return [name for items in find_lists(f"[{truncated.group(1)}]") for name in items], False
    if _REFUSAL.search(text):
        return [], False
    marked_lines = find_lines(text)
    if marked_lines:
        return [_strip_remark(line) for line in marked_lines], False
    lines = [line for line in text.splitlines() if line.strip()]
    names = [_LEAD.sub("", line.strip()) for line in lines]
    if count == 1:  # a name may contain commas
        return names[:1], lines == names and len(lines) == 1
    return (names, False) if len(names) > 1 else (_split_enumeration("".join(names)), False)


def read_guesses(reply: str, count: int) -> Guess:
    """Parses the names in a reply to ``guesses_prompt``.

    It accepts Python and JSON lists, even truncated ones; lists with one name per line; and comma-separated names on
    one line. If one name was requested, the complete reply is the name. Sentences and refusals are not names.

    Args:
        reply: The text that the model wrote.
        count: Number of names that the prompt requested; further ones are dropped.
    """
    items, has_requested_form = _extract_names(strip_thinking(reply), count)
    names: dict[str, str] = {}
    for name in map(_clean_name, items):
        if name:
            names.setdefault(normalize_name(name), name)
    selected = tuple(names.values())[:count]
    is_clean = has_requested_form and len(selected) == len(items) == count
    return Guess(selected, "ok" if is_clean else "repaired" if selected else "unreadable", reply)


def count_names(guesses: Iterable[Sequence[str]]) -> dict[str, int]:
    """Counts for how many images each name was guessed. Spellings that differ only in case or white space are merged.

    Args:
        guesses: Names per image.

    Returns:
        dict[str, int]: Counts by most frequent spelling (on ties the alphabetically first), in alphabetical order.
    """
    images: Counter[str] = Counter()
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for names in guesses:
        images.update({normalize_name(name) for name in names})
        for name in names:
            spellings[normalize_name(name)][name] += 1
    best_spelling = {key: min(counts, key=lambda name: (-counts[name], name)) for key, counts in spellings.items()}
    return {best_spelling[key]: images[key] for key in sorted(images)}


def elect_names(orders: Sequence[Sequence[str]], min_votes: int) -> tuple[dict[str, int], list[str | None]]:
    """Selects the names that enough images chose.

    Args:
        orders: For each image the names that it retrieved, best first; an image without any has no vote.
        min_votes: Minimum number of votes for a name.

    Returns:
        tuple: Votes by selected name, in alphabetical order; and each image's best selected name, or None.
    """
    votes = Counter(order[0] for order in orders if order)
    elected = {name: votes[name] for name in sorted(votes) if votes[name] >= min_votes}
    return elected, [next((name for name in order if name in elected), None) for order in orders]
