"""What the sections' own checks share."""

from __future__ import annotations

from typing import Any

from data_prep.core.errors import UserError


def check(condition: bool, message: str) -> None:
    """Raises a ``UserError`` with the message where the condition does not hold."""
    if not condition:
        raise UserError(message)


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Checks that a value is one of those allowed."""
    check(value in allowed, f"{key}={value}: must be one of {', '.join(allowed)}")


def bounded(section: str, args: Any, least: dict[str, float], most: dict[str, float] | None = None) -> None:
    """Checks numbers of a section against the least, and the most, that work."""
    for key, bound in least.items():
        value = getattr(args, key)
        check(value >= bound, f"{section}.{key}={value}: must be at least {bound}")
    for key, bound in (most or {}).items():
        value = getattr(args, key)
        check(value <= bound, f"{section}.{key}={value}: must be at most {bound}")
