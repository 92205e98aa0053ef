"""Worker pools that stop at once when the command is interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


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


def loader_options(workers: int) -> dict[str, Any]:
    """Returns the options of a ``DataLoader`` whose workers start fast and leave Ctrl-C and SIGTERM to their reader.

    Under Linux they are forked, in spawned processes too: a spawned worker imports all libraries again.

    Args:
        workers: Number of worker processes; 0: none.
    """
    context = "fork" if workers and sys.platform == "linux" else None
    return {"num_workers": workers, "worker_init_fn": _exit_at_signals, "multiprocessing_context": context}


def _exit_at_signals(worker: int) -> None:
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop_signal, lambda *_: os._exit(0))


def available_cores() -> int:
    """Returns the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
