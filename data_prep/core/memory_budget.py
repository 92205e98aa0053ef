"""Memory that the threads of a process share, so that together they take no more than there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class MemoryBudget:
    """Bytes to hold for a while: who needs more than is left waits, and who needs more than there is works alone.

    Args:
        total: Bytes.
    """

    def __init__(self, total: int):
        self.total = total
        self._reset()
        os.register_at_fork(after_in_child=self._reset)  # a child has none of the threads that hold some

    def _reset(self) -> None:
        self._free, self._changed = self.total, Condition()

    @contextmanager
    def holding(self, amount: int) -> Iterator[None]:
        """Holds as many bytes while the block runs."""
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
