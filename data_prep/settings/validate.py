"""Validation helpers that the sections share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.core.errors import UserError


def check(condition: bool, message: str) -> None:
    """Raises a ``UserError`` with the message if the condition is false."""
    if not condition:
        raise UserError(message)


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Checks that a value is one of the allowed ones."""
    check(value in allowed, f"{key}={value}: must be one of {', '.join(allowed)}")


def bounded(section: str, args: Any, minimum: Mapping[str, float], maximum: Mapping[str, float] | None = None) -> None:
    """Checks the numbers of a section against their minimum and maximum values (inclusive), given by key."""
    for key, bound in minimum.items():
        value = getattr(args, key)
        check(value >= bound, f"{section}.{key}={value}: must be at least {bound}")
    for key, bound in (maximum or {}).items():
        value = getattr(args, key)
        check(value <= bound, f"{section}.{key}={value}: must be at most {bound}")
