"""Worker pools that stop at once when the command is interrupted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


def _ignore_stop_signals() -> None:
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop_signal, signal.SIG_IGN)


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yields a pool whose workers leave Ctrl-C and SIGTERM to the parent process; jobs not yet begun are cancelled."""
    pool = ProcessPoolExecutor(processes, initializer=_ignore_stop_signals)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def available_cores() -> int:
    """Returns the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
