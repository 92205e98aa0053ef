"""Names that an MLLM guesses: read from its replies strictly, and counted.

Outcome codes: ``ok``, the reply lists as many names as were asked for and nothing else; ``repaired``, names were read
from another form, cut out of a reply that ended early, or there were repeats, too many or too few; ``unreadable``,
nothing that could be a name was found.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_prep.core.names import normalize_name
from data_prep.prompting.replies import find_lines, find_lists, without_thought

MOST_WORDS = 16
"""Of a name; what is longer is a sentence."""

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
_CUT_SHORT = re.compile(r"""\[\s*((?:(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*,\s*)+)""", re.DOTALL)


@dataclass(frozen=True)
class Guess:
    """What the MLLM said about an image.

    Attributes:
        names: Distinct, in its order; at most as many as were asked for.
        outcome: ``ok``, ``repaired`` or ``unreadable``.
        reply: Its words.
    """

    names: tuple[str, ...]
    outcome: str
    reply: str


def _bare(text: str) -> str:
    """A name without quotes, mark-up, article and full stop; empty where it is none."""
    name = re.sub(r"\s+", " ", text).strip().strip(_QUOTES).strip()
    name = _ARTICLE.sub("", name.rstrip(".;,").strip(_QUOTES).strip())
    says = any(c.isalnum() for c in name) and not name.isdigit() and normalize_name(name) not in _NOTHING
    says = says and not name.endswith(":")  # it announces names
    return name if says and len(name.split()) <= MOST_WORDS and not _SENTENCES.search(name) else ""


def _beginning(line: str) -> str:
    """A line of a list without the remark behind the name."""
    return _REMARK.sub("", line) or line


def _pieces(line: str) -> list[str]:
    """The names of a line that enumerates them, without what announces them."""
    listed = line.rpartition(": ")[2].strip().strip("[](){}")
    parts = re.split(r"\s*[,;/|]\s*(?:and\s+|or\s+)?|\s+or\s+", listed)
    return [part for part in parts if part]


def _read(text: str, count: int) -> tuple[list[str], bool]:
    """Names as they stand, and whether in a form that was asked for."""
    # Numbers alone are a remark, or a part of a name.
    lists = max((own for own in find_lists(text) if not all(item.isdigit() for item in own)), key=len, default=[])
    if lists:
        return lists, text.startswith("[") and text.endswith("]")
    cut = _CUT_SHORT.search(text)
    if cut:
        return [name for found in find_lists(f"[{cut.group(1)}]") for name in found], False
    if _REFUSAL.search(text):
        return [], False
    marked = find_lines(text)
    if marked:
        return [_beginning(line) for line in marked], False
    lines = [line for line in text.splitlines() if line.strip()]
    plain = [_LEAD.sub("", line.strip()) for line in lines]
    if count == 1:  # a name may have commas
        return plain[:1], lines == plain and len(lines) == 1
    return (plain, False) if len(plain) > 1 else (_pieces("".join(plain)), False)


def read_guesses(reply: str, count: int) -> Guess:
    """Reads the names out of a reply to ``guesses_prompt``.

    Understood are Python and JSON lists, also where the reply ended within one; lists by line; and lines of names with
    commas between. A single name, where one is asked for, is the whole reply. Sentences and refusals are no names.

    Args:
        reply: What the model wrote.
        count: Names that it was asked for; more are left out.
    """
    items, asked_form = _read(without_thought(reply), count)
    names: dict[str, str] = {}
    for name in map(_bare, items):
        if name:
            names.setdefault(normalize_name(name), name)
    kept = tuple(names.values())[:count]
    clean = asked_form and len(kept) == len(items) == count
    return Guess(kept, "ok" if clean else "repaired" if kept else "unreadable", reply)


def count_names(guesses: Iterable[Sequence[str]]) -> dict[str, int]:
    """How many images each name was guessed for. Spellings that differ in case or white space alone are one name.

    Args:
        guesses: Names per image.

    Returns:
        dict[str, int]: By the most frequent spelling, of equals the first in the alphabet; in alphabetical order.
    """
    images: Counter[str] = Counter()
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for names in guesses:
        images.update({normalize_name(name) for name in names})
        for name in names:
            spellings[normalize_name(name)][name] += 1
    shown = {key: min(own, key=lambda name: (-own[name], name)) for key, own in spellings.items()}
    return {shown[key]: images[key] for key in sorted(images)}


def elect_names(orders: Sequence[Sequence[str]], least: int) -> tuple[dict[str, int], list[str | None]]:
    """Keeps the names that enough images chose.

    Args:
        orders: Per image the names that it retrieved, best first; an image without any has no vote.
        least: Votes that a name needs.

    Returns:
        tuple: Votes by kept name, in alphabetical order; and each image's best kept name, None where it has none.
    """
    votes = Counter(order[0] for order in orders if order)
    kept = {name: votes[name] for name in sorted(votes) if votes[name] >= least}
    return kept, [next((name for name in order if name in kept), None) for order in orders]
