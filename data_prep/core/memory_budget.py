"""Memory of a process: a budget that its threads share, and glibc told to keep what is freed."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of malloc.h
_PAD_BYTES = 256 << 20
_LARGEST = 2**31 - 1


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


def keep_freed_memory() -> bool:
    """Has this process keep what it frees, for its next allocations; a process that it forks does so too.

    A pass of a model on a CPU allocates and frees blocks of tens of megabytes. glibc returns them to the system, which
    has to clear and map them again for the next pass: more work than EfficientNet-Lite0's arithmetic.
    Elsewhere than on Linux with glibc, and where the environment sets malloc itself, nothing changes.

    Returns:
        bool: Whether it does.
    """
    if platform.libc_ver()[0] != "glibc" or any(key.startswith("MALLOC_") for key in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _PAD_BYTES))
    return all(mallopt(key, value) == 1 for key, value in settings)
