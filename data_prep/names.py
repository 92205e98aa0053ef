"""Class names: when two count as the same, and how classes of one name are told apart."""

from __future__ import annotations

import re
from collections.abc import Sequence


def folded(name: str) -> str:
    """A name without the differences that a reader of replies overlooks: case and white space."""
    return re.sub(r"\s+", " ", name).strip().casefold()


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Numbers the names that an earlier class has: ``crane``, ``crane (2)``.

    A model can only answer by name, so two classes of one name could not be told apart in its reply.
    """
    taken = {folded(name) for name in names}
    seen: set[str] = set()
    distinct = []
    for name in names:
        shown, number = name, 1
        while folded(shown) in seen or (number > 1 and folded(shown) in taken):
            number += 1
            shown = f"{name} ({number})"
        seen.add(folded(shown))
        distinct.append(shown)
    return tuple(distinct)
