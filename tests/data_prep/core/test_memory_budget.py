"""Threads together stay within a memory budget."""

import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from data_prep.core.memory_budget import MemoryBudget


def test_the_budget_is_never_exceeded_and_a_thread_that_needs_more_runs_alone():
    budget, held, snapshots = MemoryBudget(10), [], []

    def work(amount: int) -> None:
        with budget.holding(amount):
            held.append(amount)
            snapshots.append(list(held))
            time.sleep(0.002)
            held.remove(amount)

    threads = [threading.Thread(target=work, args=[amount]) for amount in [4, 3, 25, 6, 1, 4, 10, 3] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(sum(together) <= 10 or together == [25] for together in snapshots) and len(snapshots) == 24


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_blocks_are_kept_unless_the_environment_sets_malloc():
    script = """
import resource
from data_prep.core.memory_budget import keep_freed_memory
keeps = keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = 64 << 20
b"x" * block
before = faults()
for _ in range(4):
    b"x" * block
print(keeps, faults() - before)
"""

    def run(**changes: str) -> list[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | changes
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    keeps, faults = run()
    assert keeps == "True" and int(faults) < 50
    keeps, faults = run(MALLOC_ARENA_MAX="4")
    assert keeps == "False" and int(faults) > 100  # 4 blocks of 64 MB have 65,536 pages, or 128 large ones
