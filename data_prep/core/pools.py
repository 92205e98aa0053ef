"""Processes that work through a list of jobs, and stop at once when the command does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


def _leave_stopping() -> None:
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes leave Ctrl-C and SIGTERM to the one that started them; what is not begun is given up."""
    pool = ProcessPoolExecutor(processes, initializer=_leave_stopping)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
