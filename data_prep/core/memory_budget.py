"""A memory budget shared by the threads of a process, so that together they stay within a limit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class MemoryBudget:
    """A number of bytes that threads reserve and release: a thread that needs more than is free waits.

    A thread that needs more than the total runs alone.

    Args:
        total: Size of the budget, in bytes.
    """

    def __init__(self, total: int):
        self.total = total
        self._reset()
        if hasattr(os, "register_at_fork"):  # a child has none of the threads with a reservation; Windows does not fork
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._free, self._changed = self.total, Condition()

    @contextmanager
    def holding(self, amount: int) -> Iterator[None]:
        """Reserves ``amount`` bytes while the block runs."""
        amount = min(amount, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()
