"""Class names: cleaning, normalisation for comparison, and disambiguation of classes with the same name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Control characters other than white space; archives pad text with zero bytes.
_CONTROL = "\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt): invisible; and the blank Braille pattern.
_INVISIBLE = re.compile(
    f"[{_CONTROL}\u2800\ufff9-\ufffb"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# The invisible characters that no script and no emoji needs.
_RESIDUE = re.compile(
    f"[{_CONTROL}]|[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff0-\ufff8]"
)


def tidy(name: str) -> str:
    """Cleans a name for display: composed accents (NFC), single spaces, no stray invisible characters."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", _RESIDUE.sub("", name))).strip()


def normalize_name(name: str) -> str:
    """Normalises a name for comparison.

    It ignores case, white space, invisible characters, and alternative code points for the same letters (NFKC), such
    as combining accents and full-width letters.
    """
    # NFKC twice, since case folding can produce decomposed letters.
    visible = unicodedata.normalize("NFKC", _INVISIBLE.sub("", name)).casefold()
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", visible)).strip()


def disambiguate(names: Sequence[str]) -> tuple[str, ...]:
    """Numbers repeated names: ``crane``, ``crane (2)``.

    A model can only answer by name, so two classes with the same name would be indistinguishable in its reply.
    """
    taken = {normalize_name(name) for name in names}
    seen: set[str] = set()
    unique_names = []
    for name in names:
        unique, suffix = name, 1
        while normalize_name(unique) in seen or (suffix > 1 and normalize_name(unique) in taken):
            suffix += 1
            unique = f"{name} ({suffix})"
        seen.add(normalize_name(unique))
        unique_names.append(unique)
    return tuple(unique_names)
