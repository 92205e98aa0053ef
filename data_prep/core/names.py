"""Class names: how they are written, when two count as the same, and how classes of one name are told apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Control characters that are no white space; archives pad texts with zeros.
_CONTROL = "\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt): characters that show nothing; and Braille's blank.
_INVISIBLE = re.compile(
    f"[{_CONTROL}\u2800\ufff9-\ufffb"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Those of them that no script and no emoji needs.
_RESIDUE = re.compile(
    f"[{_CONTROL}]|[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff0-\ufff8]"
)


def tidy(name: str) -> str:
    """A name as it looks: composed accents (NFC), single blanks, and none of the marks that files leave in texts."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", _RESIDUE.sub("", name))).strip()


def normalize_name(name: str) -> str:
    """A name without the differences that a reader of replies overlooks.

    These are case, white space, invisible characters, and other code points for the same letters (NFKC), such as
    accents as characters of their own or letters of full width.
    """
    # Twice, since a letter of lower case can be composed of others.
    visible = unicodedata.normalize("NFKC", _INVISIBLE.sub("", name)).casefold()
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", visible)).strip()


def disambiguate(names: Sequence[str]) -> tuple[str, ...]:
    """Numbers the names that an earlier class has: ``crane``, ``crane (2)``.

    A model can only answer by name, so two classes of one name could not be told apart in its reply.
    """
    taken = {normalize_name(name) for name in names}
    seen: set[str] = set()
    distinct = []
    for name in names:
        shown, number = name, 1
        while normalize_name(shown) in seen or (number > 1 and normalize_name(shown) in taken):
            number += 1
            shown = f"{name} ({number})"
        seen.add(normalize_name(shown))
        distinct.append(shown)
    return tuple(distinct)
