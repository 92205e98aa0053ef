"""Progress bars for long operations, shown only in an interactive terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

_DELAY_S = 2  # shorter operations show no bar


def is_interactive() -> bool:
    """Tells whether standard error is a terminal, and not that of a CI job."""
    return sys.stderr.isatty() and not os.environ.get("CI")


def progress_bar(label: str, items: Iterable | None = None, total: int | None = None) -> Any:
    """Creates a progress bar to iterate over items with, or to ``update`` by hand and ``close``.

    The bar disappears when it is complete.

    Args:
        label: Text before the bar.
        items: What to iterate over.
        total: Number of items, if they have no length.
    """
    from tqdm import tqdm  # imported here, since it reads environment variables that a command sets first

    return tqdm(items, label, total, leave=False, delay=_DELAY_S, disable=not is_interactive(), dynamic_ncols=True)
