"""Bars for what takes long: where someone looks at a terminal, and only there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

_AFTER_SECONDS = 2  # what is done sooner shows none


def is_interactive() -> bool:
    """Whether standard error is a terminal, and not that of a CI."""
    return sys.stderr.isatty() and not os.environ.get("CI")


def progress_bar(what: str, items: Iterable | None = None, total: int | None = None) -> Any:
    """A bar to iterate over items with, or to ``update`` by hand and ``close``; it goes when it is full.

    Args:
        what: Stands before it.
        items: What to iterate over.
        total: How many there are, where they do not tell.
    """
    from tqdm import tqdm  # here, since it reads the environment that a command sets first

    return tqdm(items, what, total, leave=False, delay=_AFTER_SECONDS, disable=not is_interactive(), dynamic_ncols=True)
