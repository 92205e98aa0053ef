"""Validation helpers that the sections share."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from data_prep.core.errors import UserError
from data_prep.settings.hints import value_hint


def check(condition: bool, message: str) -> None:
    """Raises a ``UserError`` with the message if the condition is false."""
    if not condition:
        raise UserError(message)


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Checks that a value is one of the allowed ones."""
    check(value in allowed, f"{key}={value}: must be one of {', '.join(allowed)}{value_hint(value, allowed)}")


def bounded(section: str, args: Any, minimum: Mapping[str, float], maximum: Mapping[str, float] | None = None) -> None:
    """Checks the numbers of a section against their minimum and maximum values (inclusive), given by key."""
    for key, bound in minimum.items():
        value = getattr(args, key)
        check(value >= bound, f"{section}.{key}={value}: must be at least {bound}")
    for key, bound in (maximum or {}).items():
        value = getattr(args, key)
        check(value <= bound, f"{section}.{key}={value}: must be at most {bound}")


def check_whole(name: str, value: object) -> None:
    """Checks that a program's argument is a whole number of at least 1; Python's, or numpy's.

    Raises:
        UserError: It is not; the message names the argument.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
    check(is_whole, f"{name}={value!r}: must be a whole number of at least 1")
